"""Parse protocol buffers without a schema, for a few small messages."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) for each field; a value is an integer or the bytes of a string, message or packed numbers.

    :raises ValueError: the message is damaged.
    """
    at = 0
    while at < len(raw):
        key, at = read_varint(raw, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = read_varint(raw, at)
            yield number, value
            continue
        if kind == BYTES:
            length, at = read_varint(raw, at)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {kind}")
        if at + length > len(raw):
            raise ValueError("a field extends beyond its message")
        payload = raw[at : at + length]
        at += length
        yield number, payload if kind == BYTES else int.from_bytes(payload, "little")


def read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return (number, position after it).

    :raises ValueError: the number is cut or too long.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise ValueError("the message ends in the middle of a number")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is longer than ten bytes")


def as_text(value: int | bytes) -> str:
    """Return a string field as text."""
    if not isinstance(value, bytes):
        raise ValueError("expected a string field, found a number")
    return value.decode("utf-8", "replace")


def as_number(value: int | bytes) -> int:
    """Return an integer field."""
    if not isinstance(value, int):
        raise ValueError("expected a number field, found a string")
    return value


def as_message(value: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a nested message."""
    if not isinstance(value, bytes):
        raise ValueError("expected a message field, found a number")
    return fields(value)
