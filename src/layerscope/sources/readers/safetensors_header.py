"""The safetensors header: an eight-byte length, then JSON; every value is checked before it is used."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.errors import Unreadable
from layerscope.sources.storage.dtypes import MAX_AXES, is_size
from layerscope.sources.storage.extents import whole_file

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
MAX_TENSORS = 1 << 19  # four times as many as the largest models have
DTYPES = {  # name in the file → (numpy-style name, bits per entry)
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E8M0": ("uint8", 8),  # power-of-two scales, not weights
    "F6_E2M3": ("uint6", 6),
    "F6_E3M2": ("uint6", 6),
    "F4": ("uint4", 4),
    "C64": ("complex64", 64),
    "I64": ("int64", 64),
    "I32": ("int32", 32),
    "I16": ("int16", 16),
    "I8": ("int8", 8),
    "U64": ("uint64", 64),
    "U32": ("uint32", 32),
    "U16": ("uint16", 16),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
}


@dataclass(frozen=True)
class Entry:
    """Dtype, shape and location of one tensor."""

    dtype: str  # numpy-style name
    shape: tuple[int, ...]
    start: int  # byte in the file
    stop: int


def read_header(path: Path) -> dict[str, Entry]:
    """Read the header: a mapping from tensor name to entry, in file order.

    :raises Unreadable: the file is truncated or not JSON; two tensors have one name; the offsets are negative, overlap,
        leave gaps or do not end with the file; or the size of a tensor is not shape × dtype.
    """
    header, base, size = _read_table(path)
    header.pop("__metadata__", None)
    entries = {name: _parse_entry(path, name, value, base) for name, value in header.items()}
    _check_tiling(path, entries, base, size)
    return entries


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of the header: text by name, as the program that wrote the file left it."""
    metadata = _read_table(path)[0].get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def _read_table(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return (header, byte at which the tensors begin, size of the file)."""
    extent = whole_file(path)
    size, prefix = extent.length, extent.read(0, 8)
    if len(prefix) < 8:
        raise Unreadable(f"{path}: not safetensors, or truncated: the file has {size} bytes; download it again")
    length = int.from_bytes(prefix, "little")
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise Unreadable(
            f"{path}: not safetensors, or truncated: header of {length:,} bytes in a file of {size:,} bytes "
            f"(at most {MAX_HEADER_BYTES:,} are read); download it again"
        )
    raw = extent.read(8, length)
    if raw.count(b'"dtype"') > MAX_TENSORS:
        raise Unreadable(f"{path}: the header lists more than {MAX_TENSORS:,} tensors, the limit")
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_reject_duplicates)
    except (ValueError, RecursionError) as error:
        raise Unreadable(
            f"{path}: the safetensors header is damaged: {_shorten(error)}; save or download the file again"
        ) from None
    if not isinstance(header, dict):
        raise Unreadable(f"{path}: the safetensors header is not a JSON object; save or download the file again")
    return header, 8 + length, size


def looks_like_header(path: Path) -> bool:
    """Whether the file starts with a length that fits it, followed by the start of a JSON object."""
    try:
        extent = whole_file(path)
        head = extent.read(0, 9)
    except OSError:
        return False
    return len(head) == 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= extent.length - 8


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        duplicate = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"two entries are called {duplicate!r}")
    return table


def _parse_entry(path: Path, name: str, value: Any, base: int) -> Entry:
    where = f"{path}: tensor {_shorten(repr(name))}"
    try:
        code, shape, (start, stop) = value["dtype"], value["shape"], value["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise Unreadable(f"{where} lacks dtype, shape or data_offsets; save or download the file again") from None
    if code not in DTYPES if isinstance(code, str) else True:
        raise Unreadable(f"{where} has the unknown dtype {_shorten(repr(code))}; known: {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not all(is_size(x) for x in [*shape, start, stop]):
        raise Unreadable(
            f"{where} has an invalid shape or offsets: expected non-negative integers, at most {MAX_AXES} in a shape"
        )
    dtype, bits = DTYPES[code]
    if start > stop or (stop - start) * 8 != math.prod(shape) * bits:
        raise Unreadable(
            f"{where}: {stop - start:,} bytes cannot hold shape {_shorten(str(shape))} of dtype {code}; "
            "save or download the file again"
        )
    return Entry(dtype, tuple(shape), base + start, base + stop)


def _check_tiling(path: Path, entries: dict[str, Entry], base: int, size: int) -> None:
    expected_start, previous_name = base, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != expected_start:
            fault = "overlaps" if entry.start < expected_start else "leaves a gap after"
            raise Unreadable(
                f"{path}: tensor {_shorten(repr(name))} {fault} {_shorten(previous_name)}; "
                "save or download the file again"
            )
        expected_start, previous_name = entry.stop, repr(name)
    if expected_start != size:
        fault = "truncated" if expected_start > size else "data after the last tensor"
        raise Unreadable(
            f"{path}: {fault}: the header describes {expected_start:,} bytes, the file has {size:,}; "
            "save or download it again"
        )


def _shorten(value: object, max_chars: int = 80) -> str:
    text = str(value)
    return text if len(text) <= max_chars else text[:max_chars] + "…"
