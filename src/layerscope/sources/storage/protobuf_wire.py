"""Protocol buffers on the wire: the fields of a message, for the few small ones that are read without their schema."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field: integers, or the bytes of a string, a message or packed numbers.

    :raises ValueError: damaged.
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
            raise ValueError(f"a field of wire type {kind}")
        if at + length > len(raw):
            raise ValueError("a field that ends beyond its message")
        payload = raw[at : at + length]
        at += length
        yield number, payload if kind == BYTES else int.from_bytes(payload, "little")


def read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends)."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise ValueError("ends in the middle of a number")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def as_text(value: int | bytes) -> str:
    """A string field."""
    if not isinstance(value, bytes):
        raise ValueError("a number where a string should be")
    return value.decode("utf-8", "replace")


def as_number(value: int | bytes) -> int:
    """An integer field."""
    if not isinstance(value, int):
        raise ValueError("a string where a number should be")
    return value


def as_message(value: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in a field."""
    if not isinstance(value, bytes):
        raise ValueError("a number where a message should be")
    return fields(value)
