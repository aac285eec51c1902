"""The GGUF header: scalar metadata and the location of each tensor; arrays, such as a vocabulary, are skipped."""

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
MAX_NAME_BYTES = 1 << 16
MAX_STRING_BYTES = 1 << 24  # chat templates are long
MAX_STORED_STRING_BYTES = 256  # longer metadata strings are skipped
MAX_ARRAY_NESTING = 3  # levels of arrays in arrays
SCALAR_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING_TYPE, ARRAY_TYPE = 8, 9


@dataclass(frozen=True)
class Entry:
    """Shape, type and location of one tensor."""

    shape: tuple[int, ...]  # slowest axis first, as in NumPy
    code: int  # ggml's number for the type
    offset: int  # byte from the start of the data


@dataclass(frozen=True)
class Header:
    """The parsed header of a GGUF file."""

    metadata: dict[str, Any]  # scalars and short strings
    tensors: dict[str, Entry]
    data: int  # byte where the tensors begin


def read_header(extent: Extent) -> Header:
    """Read the header of a little-endian GGUF file of version 2 or 3.

    :raises Unreadable: the file is truncated, big-endian or of another version, or its header is inconsistent.
    """
    cursor = Cursor(extent)
    try:
        return _parse_header(cursor)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise Unreadable(
            f"{extent.path}: the GGUF header cannot be read: {error}; convert or download the model again"
        ) from None


def _parse_header(cursor: Cursor) -> Header:
    if cursor.take(4) != MAGIC:
        raise ValueError("the file does not start with 'GGUF'")
    version = cursor.number("<I")
    if version not in VERSIONS:
        swapped = int.from_bytes(int(version).to_bytes(4, "little"), "big")
        raise ValueError(
            "the file is big-endian, which is not supported"
            if swapped in (1, 2, 3)
            else f"version {version}, but only versions 2 and 3 are supported"
        )
    tensors, keys = cursor.number("<Q"), cursor.number("<Q")
    if tensors > MAX_TENSORS or keys > MAX_METADATA_KEYS:
        raise ValueError(
            f"it states {tensors:,} tensors and {keys:,} keys, more than the limits of {MAX_TENSORS:,} and "
            f"{MAX_METADATA_KEYS:,}"
        )
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
            raise ValueError(f"a tensor has {axes} axes; at most {MAX_AXES} are supported")
        sizes = [cursor.number("<Q") for _ in range(axes)]
        if math.prod(sizes) >= 1 << 62:
            raise ValueError("the size of a tensor is too large")
        if name in entries:
            raise ValueError(f"two tensors are called {name[:80]!r}")
        entries[name] = Entry(tuple(reversed(sizes)), cursor.number("<I"), cursor.number("<Q"))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise ValueError(f"the alignment is {alignment}, not a whole number from 1 to 1,048,576")
    return Header(metadata, entries, -(-cursor.at // alignment) * alignment)


def _read_value(cursor: Cursor, kind: int, depth: int) -> Any:
    """Read a scalar or a short string; skip an array or a long string and return None."""
    if kind in SCALAR_FORMATS:
        return cursor.number(SCALAR_FORMATS[kind])
    if kind == STRING_TYPE:
        length = cursor.number("<Q")
        if length > MAX_STRING_BYTES:
            raise ValueError(f"a string has {length:,} bytes; at most {MAX_STRING_BYTES:,} are read")
        raw = cursor.take(length)
        return raw.decode("utf-8", "replace") if length <= MAX_STORED_STRING_BYTES else None
    if kind != ARRAY_TYPE or depth > MAX_ARRAY_NESTING:
        raise ValueError(f"a value has the unknown type {kind}, or its arrays nest too deeply")
    inner, count = cursor.number("<I"), cursor.number("<Q")
    if inner in SCALAR_FORMATS:
        cursor.skip(count * struct.calcsize(SCALAR_FORMATS[inner]))
    elif inner == STRING_TYPE:
        _skip_strings(cursor, count)
    else:
        if count > MAX_METADATA_KEYS:
            raise ValueError(f"an array contains {count:,} arrays; at most {MAX_METADATA_KEYS:,} are read")
        for _ in range(count):
            _read_value(cursor, inner, depth + 1)
    return None


def _read_text(cursor: Cursor, max_bytes: int) -> str:
    length = cursor.number("<Q")
    if length > max_bytes:
        raise ValueError(f"a name has {length:,} bytes; at most {max_bytes:,} are read")
    return cursor.take(length).decode("utf-8")


def _skip_strings(cursor: Cursor, count: int) -> None:
    """Skip strings; each is an eight-byte length followed by its bytes."""
    if count > cursor.extent.length // 8:
        raise ValueError(f"an array states {count:,} strings, more than the file can hold")
    unpack = struct.Struct("<Q").unpack_from
    skipped = 0
    while skipped < count:
        cursor.take(8)  # loads the chunk of this position
        cursor.at -= 8
        chunk, at, stop = cursor.chunk, cursor.at - cursor.begin, len(cursor.chunk) - 8
        while skipped < count and at <= stop:
            at += 8 + unpack(chunk, at)[0]
            skipped += 1
        cursor.at = cursor.begin
        cursor.skip(at)
