"""TensorFlow's tensor bundle: a sorted table of entries (.index) and the numbers (.data-00000-of-00001), no TensorFlow.

The table is LevelDB's format; TensorFlow writes it uncompressed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from layerscope.errors import Unreadable
from layerscope.sources.storage.dtypes import MOST_AXES
from layerscope.sources.storage.extents import Extent
from layerscope.sources.storage.protobuf_wire import fields, message, number, varint

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER, TRAILER = 48, 5  # bytes
LONGEST = 256 << 20  # bytes of the table
MOST_ENTRIES = 1 << 19
LONGEST_KEY = 1 << 12  # bytes
LONGEST_KEYS = 64 << 20  # bytes of all keys together
DTYPES = {  # DataType
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64",
    9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32",
    23: "uint64", 24: "float8_e5m2", 25: "float8_e4m3fn", 29: "int4", 30: "uint4",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies."""

    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int  # byte in the shard
    size: int  # bytes
    sliced: bool  # stored in several pieces


@dataclass(frozen=True)
class Bundle:
    """What the table says."""

    shards: int
    entries: dict[str, Entry]


def read_index(extent: Extent) -> Bundle:
    """All entries of an .index file.

    :raises Unreadable: truncated, compressed, big-endian, or no table of TensorFlow's.
    """
    try:
        return _bundle(extent)
    except (ValueError, struct.error, UnicodeDecodeError, IndexError) as error:
        raise Unreadable(f"{extent.path}: not a TensorFlow checkpoint's index, or damaged: {error}") from None


def _bundle(extent: Extent) -> Bundle:
    if extent.length > LONGEST:
        raise ValueError(f"a table of {extent.length:,} bytes")
    raw = extent.read()
    if len(raw) < FOOTER or raw[-8:] != MAGIC:
        raise ValueError("it does not end as one")
    _, at = _handle(raw, len(raw) - FOOTER)
    index, _ = _handle(raw, at)
    shards, entries = 0, {}  # type: int, dict[str, Entry]
    letters, last = 0, -1
    for _, value in _block(raw, index):
        handle, _ = _handle(value, 0)
        if handle[0] <= last:
            raise ValueError("blocks out of order")
        last = handle[0]
        for key, entry in _block(raw, handle):
            letters += len(key)
            if letters > LONGEST_KEYS or key.decode("utf-8") in entries:
                raise ValueError("keys beyond any use")
            if key == b"":
                shards = _header(entry)
            else:
                entries[key.decode("utf-8")] = _entry(entry)
            if len(entries) > MOST_ENTRIES:
                raise ValueError(f"more than {MOST_ENTRIES:,} tensors")
    if not 0 < shards <= 1 << 16:
        raise ValueError(f"{shards} shards")
    return Bundle(shards, entries)


def _handle(raw: bytes, at: int) -> tuple[tuple[int, int], int]:
    """((offset, size) of a block, where the handle ends)."""
    offset, at = varint(raw, at)
    size, at = varint(raw, at)
    return (offset, size), at


def _block(raw: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of one block; keys share the beginnings of those before them."""
    offset, size = handle
    if offset + size + TRAILER > len(raw) or size < 4:
        raise ValueError("a block beyond its end")
    if raw[offset + size] != 0:
        raise ValueError("a compressed block")
    block = raw[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    stop = size - 4 - 4 * restarts
    if stop < 0:
        raise ValueError("a block that is all restarts")
    at, key = 0, b""
    while at < stop:
        shared, at = varint(block, at)
        fresh, at = varint(block, at)
        length, at = varint(block, at)
        if shared > len(key) or at + fresh + length > stop or shared + fresh > LONGEST_KEY:
            raise ValueError("an entry beyond its block")
        key = key[:shared] + block[at : at + fresh]
        yield key, block[at + fresh : at + fresh + length]
        at += fresh + length


def _header(raw: bytes) -> int:
    """Number of shards."""
    found = dict(fields(raw))
    if found.get(2):
        raise ValueError("big-endian")
    return number(found.get(1, 0))


def _entry(raw: bytes) -> Entry:
    dtype, shape, shard, offset, size, sliced = 0, (), 0, 0, 0, False  # type: int, tuple[int, ...], int, int, int, bool
    for key, value in fields(raw):
        if key == 1:
            dtype = number(value)
        elif key == 2:
            shape = tuple(_size(inner) for field, inner in message(value) if field == 2)
        elif key == 3:
            shard = number(value)
        elif key == 4:
            offset = number(value)
        elif key == 5:
            size = number(value)
        elif key == 7:
            sliced = True
    if len(shape) > MOST_AXES:
        raise ValueError(f"a tensor with {len(shape)} axes")
    return Entry(DTYPES.get(dtype, f"type {dtype}"), shape, shard, offset, size, sliced)


def _size(dimension: int | bytes) -> int:
    size = number(dict(message(dimension)).get(1, 0))
    if size >= 1 << 62:
        raise ValueError("a tensor of impossible size")
    return size
