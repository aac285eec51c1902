"""TensorFlow's tensor bundles, read without TensorFlow.

A bundle is a sorted table of entries (.index) and the values of the tensors (.data-00000-of-00001). The table is in
LevelDB's format; TensorFlow writes it uncompressed.
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
FOOTER_BYTES, BLOCK_TRAILER_BYTES = 48, 5
MAX_TABLE_BYTES = 256 << 20
MAX_ENTRIES = 1 << 19
MAX_KEY_BYTES = 1 << 12
MAX_TOTAL_KEY_BYTES = 64 << 20  # all keys together
DTYPE_BY_CODE = {  # TensorFlow's enum DataType
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64",
    9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32",
    23: "uint64", 24: "float8_e5m2", 25: "float8_e4m3fn", 29: "int4", 30: "uint4",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Dtype, shape and location of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int  # byte in the shard
    size: int  # bytes
    sliced: bool  # stored in several pieces


@dataclass(frozen=True)
class Bundle:
    """Contents of an .index file."""

    shards: int
    entries: dict[str, Entry]


def read_index(extent: Extent) -> Bundle:
    """Read all entries of an .index file.

    :raises Unreadable: the file is truncated, compressed, big-endian, or not written by TensorFlow.
    """
    try:
        return _parse_bundle(extent)
    except (ValueError, struct.error, UnicodeDecodeError, IndexError) as error:
        raise Unreadable(
            f"{extent.path}: not the index of a TensorFlow checkpoint, or damaged: {error}; save or download it again"
        ) from None


def _parse_bundle(extent: Extent) -> Bundle:
    if extent.length > MAX_TABLE_BYTES:
        raise ValueError(f"it has {extent.length:,} bytes, more than the limit of {MAX_TABLE_BYTES:,}")
    raw = extent.read()
    if len(raw) < FOOTER_BYTES or raw[-8:] != MAGIC:
        raise ValueError("its footer is missing")
    _, at = _read_handle(raw, len(raw) - FOOTER_BYTES)
    index, _ = _read_handle(raw, at)
    shards, entries = 0, {}  # type: int, dict[str, Entry]
    key_bytes, last_offset = 0, -1
    for _, value in _read_block(raw, index):
        handle, _ = _read_handle(value, 0)
        if handle[0] <= last_offset:
            raise ValueError("its blocks are out of order")
        last_offset = handle[0]
        for key, entry in _read_block(raw, handle):
            key_bytes += len(key)
            if key_bytes > MAX_TOTAL_KEY_BYTES or key.decode("utf-8") in entries:
                raise ValueError(f"a key occurs twice, or its keys exceed {MAX_TOTAL_KEY_BYTES:,} bytes in total")
            if key == b"":
                shards = _parse_shard_count(entry)
            else:
                entries[key.decode("utf-8")] = _parse_entry(entry)
            if len(entries) > MAX_ENTRIES:
                raise ValueError(f"it lists more than {MAX_ENTRIES:,} tensors")
    if not 0 < shards <= 1 << 16:
        raise ValueError(f"it states {shards:,} shards; expected 1 to 65,536")
    return Bundle(shards, entries)


def _read_handle(raw: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Read a handle: (offset, size) of its block, and the byte after the handle."""
    offset, at = read_varint(raw, at)
    size, at = read_varint(raw, at)
    return (offset, size), at


def _read_block(raw: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) for each entry of a block; keys are stored without the prefix shared with the previous one."""
    offset, size = handle
    if offset + size + BLOCK_TRAILER_BYTES > len(raw) or size < 4:
        raise ValueError("a block reaches beyond the end of the file")
    if raw[offset + size] != 0:
        raise ValueError("a block is compressed, which TensorFlow never writes")
    block = raw[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    stop = size - 4 - 4 * restarts
    if stop < 0:
        raise ValueError("a block is smaller than its list of restarts")
    at, key = 0, b""
    while at < stop:
        shared, at = read_varint(block, at)
        unshared, at = read_varint(block, at)
        length, at = read_varint(block, at)
        if shared > len(key) or at + unshared + length > stop or shared + unshared > MAX_KEY_BYTES:
            raise ValueError("an entry reaches beyond the end of its block")
        key = key[:shared] + block[at : at + unshared]
        yield key, block[at + unshared : at + unshared + length]
        at += unshared + length


def _parse_shard_count(raw: bytes) -> int:
    """Read the number of shards from the bundle's header."""
    header_fields = dict(fields(raw))
    if header_fields.get(2):
        raise ValueError("its values are big-endian, which is not supported")
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
        raise ValueError(f"a tensor has {len(shape)} axes; at most {MAX_AXES} are supported")
    return Entry(DTYPE_BY_CODE.get(dtype, f"type {dtype}"), shape, shard, offset, size, sliced)


def _parse_dimension(dimension: int | bytes) -> int:
    size = as_number(dict(as_message(dimension)).get(1, 0))
    if size >= 1 << 62:
        raise ValueError("the size of a tensor is too large")
    return size
