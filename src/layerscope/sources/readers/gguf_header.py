"""The GGUF header: scalars of the metadata and where each tensor lies; a vocabulary is stepped over, not read."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

from layerscope.errors import Unreadable
from layerscope.sources.storage.extents import Cursor, Extent

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 1 << 19
MAX_METADATA_KEYS = 1 << 16
MAX_AXES = 8
MAX_NAME_BYTES = 1 << 16  # bytes
MAX_STRING_BYTES = 1 << 24  # bytes of one string: chat templates are long
MAX_STORED_STRING_BYTES = 256  # bytes of a metadata string that is remembered
MAX_ARRAY_NESTING = 3  # arrays in arrays
SCALAR_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING_TYPE, ARRAY_TYPE = 8, 9


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies and how it is coded."""

    shape: tuple[int, ...]  # slowest axis first, as NumPy counts
    code: int  # ggml's number of the type
    offset: int  # byte from the start of the data


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    metadata: dict[str, Any]  # scalars and short strings
    tensors: dict[str, Entry]
    data: int  # byte where the tensors begin


def read_header(extent: Extent) -> Header:
    """The header of a GGUF file, versions 2 and 3, little-endian.

    :raises Unreadable: truncated, big-endian, an old version, or claims that are impossible.
    """
    cursor = Cursor(extent)
    try:
        return _parse_header(cursor)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise Unreadable(f"{extent.path}: the GGUF header is damaged: {error}") from None


def _parse_header(cursor: Cursor) -> Header:
    if cursor.take(4) != MAGIC:
        raise ValueError("no GGUF magic")
    version = cursor.number("<I")
    if version not in VERSIONS:
        swapped = int.from_bytes(int(version).to_bytes(4, "little"), "big")
        raise ValueError(f"version {version}" if swapped not in (1, 2, 3) else "big-endian")
    tensors, keys = cursor.number("<Q"), cursor.number("<Q")
    if tensors > MAX_TENSORS or keys > MAX_METADATA_KEYS:
        raise ValueError(f"{tensors:,} tensors and {keys:,} keys")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key, kind = _read_text(cursor, MAX_NAME_BYTES), cursor.number("<I")
        value = _read_value(cursor, kind, 0)
        if value is not None:
            metadata[key] = value
    entries: dict[str, Entry] = {}
    for _ in range(tensors):
        name = _read_text(cursor, MAX_NAME_BYTES)
        axes = cursor.number("<I")
        if axes > MAX_AXES:
            raise ValueError(f"a tensor with {axes} axes")
        sizes = [cursor.number("<Q") for _ in range(axes)]
        if math.prod(sizes) >= 1 << 62:
            raise ValueError("a tensor of impossible size")
        if name in entries:
            raise ValueError(f"two tensors are called {name[:80]!r}")
        entries[name] = Entry(tuple(reversed(sizes)), cursor.number("<I"), cursor.number("<Q"))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise ValueError(f"an alignment of {alignment}")
    return Header(metadata, entries, -(-cursor.at // alignment) * alignment)


def _read_value(cursor: Cursor, kind: int, depth: int) -> Any:
    """A scalar or a short string; None for an array, or a long string, which is stepped over."""
    if kind in SCALAR_FORMATS:
        return cursor.number(SCALAR_FORMATS[kind])
    if kind == STRING_TYPE:
        length = cursor.number("<Q")
        if length > MAX_STRING_BYTES:
            raise ValueError(f"a string of {length:,} bytes")
        raw = cursor.take(length)
        return raw.decode("utf-8", "replace") if length <= MAX_STORED_STRING_BYTES else None
    if kind != ARRAY_TYPE or depth > MAX_ARRAY_NESTING:
        raise ValueError(f"a value of type {kind}")
    inner, count = cursor.number("<I"), cursor.number("<Q")
    if inner in SCALAR_FORMATS:
        cursor.skip(count * struct.calcsize(SCALAR_FORMATS[inner]))
    elif inner == STRING_TYPE:
        _skip_strings(cursor, count)
    else:
        if count > MAX_METADATA_KEYS:
            raise ValueError(f"{count:,} arrays in an array")
        for _ in range(count):
            _read_value(cursor, inner, depth + 1)
    return None


def _read_text(cursor: Cursor, max_bytes: int) -> str:
    length = cursor.number("<Q")
    if length > max_bytes:
        raise ValueError(f"a name of {length:,} bytes")
    return cursor.take(length).decode("utf-8")


def _skip_strings(cursor: Cursor, count: int) -> None:
    """Step over strings: a length of eight bytes each, then as many bytes."""
    if count > cursor.extent.length // 8:
        raise ValueError(f"{count:,} strings")
    unpack = struct.Struct("<Q").unpack_from
    skipped = 0
    while skipped < count:
        cursor.take(8)  # its chunk is here now
        cursor.at -= 8
        chunk, at, stop = cursor.chunk, cursor.at - cursor.begin, len(cursor.chunk) - 8
        while skipped < count and at <= stop:
            at += 8 + unpack(chunk, at)[0]
            skipped += 1
        cursor.at = cursor.begin
        cursor.skip(at)
