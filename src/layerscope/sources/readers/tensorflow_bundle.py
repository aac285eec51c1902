"""TensorFlow's tensor bundle: a sorted table of entries (.index) and the numbers (.data-00000-of-00001), no TensorFlow.

The table is LevelDB's format; TensorFlow writes it uncompressed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from layerscope.errors import Unreadable
from layerscope.sources.storage.dtypes import MAX_AXES
from layerscope.sources.storage.extents import Extent
from layerscope.sources.storage.protobuf_wire import as_message, as_number, fields, read_varint

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_BYTES, BLOCK_TRAILER_BYTES = 48, 5  # bytes
MAX_TABLE_BYTES = 256 << 20  # bytes of the table
MAX_ENTRIES = 1 << 19
MAX_KEY_BYTES = 1 << 12  # bytes
MAX_TOTAL_KEY_BYTES = 64 << 20  # bytes of all keys together
DTYPE_BY_CODE = {  # DataType
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
        return _parse_bundle(extent)
    except (ValueError, struct.error, UnicodeDecodeError, IndexError) as error:
        raise Unreadable(f"{extent.path}: not a TensorFlow checkpoint's index, or damaged: {error}") from None


def _parse_bundle(extent: Extent) -> Bundle:
    if extent.length > MAX_TABLE_BYTES:
        raise ValueError(f"a table of {extent.length:,} bytes")
    raw = extent.read()
    if len(raw) < FOOTER_BYTES or raw[-8:] != MAGIC:
        raise ValueError("it does not end as one")
    _, at = _read_handle(raw, len(raw) - FOOTER_BYTES)
    index, _ = _read_handle(raw, at)
    shards, entries = 0, {}  # type: int, dict[str, Entry]
    key_bytes, last_offset = 0, -1
    for _, value in _read_block(raw, index):
        handle, _ = _read_handle(value, 0)
        if handle[0] <= last_offset:
            raise ValueError("blocks out of order")
        last_offset = handle[0]
        for key, entry in _read_block(raw, handle):
            key_bytes += len(key)
            if key_bytes > MAX_TOTAL_KEY_BYTES or key.decode("utf-8") in entries:
                raise ValueError("keys beyond any use")
            if key == b"":
                shards = _parse_shard_count(entry)
            else:
                entries[key.decode("utf-8")] = _parse_entry(entry)
            if len(entries) > MAX_ENTRIES:
                raise ValueError(f"more than {MAX_ENTRIES:,} tensors")
    if not 0 < shards <= 1 << 16:
        raise ValueError(f"{shards} shards")
    return Bundle(shards, entries)


def _read_handle(raw: bytes, at: int) -> tuple[tuple[int, int], int]:
    """((offset, size) of a block, where the handle ends)."""
    offset, at = read_varint(raw, at)
    size, at = read_varint(raw, at)
    return (offset, size), at


def _read_block(raw: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of one block; keys share the beginnings of those before them."""
    offset, size = handle
    if offset + size + BLOCK_TRAILER_BYTES > len(raw) or size < 4:
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
        shared, at = read_varint(block, at)
        unshared, at = read_varint(block, at)
        length, at = read_varint(block, at)
        if shared > len(key) or at + unshared + length > stop or shared + unshared > MAX_KEY_BYTES:
            raise ValueError("an entry beyond its block")
        key = key[:shared] + block[at : at + unshared]
        yield key, block[at + unshared : at + unshared + length]
        at += unshared + length


def _parse_shard_count(raw: bytes) -> int:
    """Number of shards."""
    header_fields = dict(fields(raw))
    if header_fields.get(2):
        raise ValueError("big-endian")
    return as_number(header_fields.get(1, 0))


def _parse_entry(raw: bytes) -> Entry:
    dtype, shape, shard, offset, size, sliced = 0, (), 0, 0, 0, False  # type: int, tuple[int, ...], int, int, int, bool
    for key, value in fields(raw):
        if key == 1:
            dtype = as_number(value)
        elif key == 2:
            shape = tuple(_parse_dimension(inner) for field, inner in as_message(value) if field == 2)
        elif key == 3:
            shard = as_number(value)
        elif key == 4:
            offset = as_number(value)
        elif key == 5:
            size = as_number(value)
        elif key == 7:
            sliced = True
    if len(shape) > MAX_AXES:
        raise ValueError(f"a tensor with {len(shape)} axes")
    return Entry(DTYPE_BY_CODE.get(dtype, f"type {dtype}"), shape, shard, offset, size, sliced)


def _parse_dimension(dimension: int | bytes) -> int:
    size = as_number(dict(as_message(dimension)).get(1, 0))
    if size >= 1 << 62:
        raise ValueError("a tensor of impossible size")
    return size
