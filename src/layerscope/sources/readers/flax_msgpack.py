"""Flax checkpoints (.msgpack), scanned without unpacking, so that arrays are read one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.sources.inventory import JAX_OPTIMIZER_KEYS
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.state_dict import Tensors, source_from_flax
from layerscope.sources.storage.dtypes import MAX_AXES, as_dtype, is_size
from layerscope.sources.storage.extents import Cursor, Extent, whole_file
from layerscope.sources.storage.paths import is_file
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
ARRAY_EXTENSION, SCALAR_EXTENSION = 1, 3  # Flax's extension types
CHUNKED_KEY = "__msgpack_chunked_array__"
MAX_NESTING_DEPTH = 64  # levels of maps in maps
MAX_ITEMS = 1 << 21
MAX_KEY_BYTES = 1 << 16


@dataclass(frozen=True)
class StoredArray:
    """Dtype, shape and location of one array."""

    dtype: str
    shape: tuple[int, ...]
    start: int  # byte in the file


def accepts(target: Any) -> bool:
    """Accept a .msgpack file, or a file called checkpoint_N that starts with a map."""
    if not is_file(target):
        return False
    if target.suffix == ".msgpack":
        return True
    head = whole_file(target).read(0, 1)
    return target.name.startswith("checkpoint_") and bool(head) and (head[0] >> 4 == 8 or head[0] in (0xDE, 0xDF))


def open(target: Path) -> Tensors:
    """Read the names and shapes of the arrays."""
    extent = whole_file(target)
    try:
        content = _Walker(extent).walk()
        leaves = list(_iterate_arrays(content, ""))
        leaf_by_name = dict(leaves)
        if len(leaf_by_name) < len(leaves):
            raise ValueError("two arrays have the same name")
    except (ValueError, RecursionError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise Unreadable(f"{target}: not a Flax checkpoint, or damaged: {error}; save or download it again") from None
    if not leaf_by_name:
        raise Unreadable(f"{target}: the msgpack file contains no arrays; save the model's parameters in it")

    def fetch(name: str) -> Array:
        info, chunks = leaf_by_name[name]
        parts = [extent.array(as_dtype(c.dtype), c.start, c.shape) for c in chunks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts).reshape(info.shape)

    return source_from_flax(
        make_spec(target, "flax_msgpack", portable=True), (info for info, _ in leaf_by_name.values()), fetch
    )


def _iterate_arrays(content: Any, prefix: str) -> Iterator[tuple[str, tuple[TensorInfo, list[StoredArray]]]]:
    if isinstance(content, StoredArray):
        name = prefix.removesuffix(".") or "array"
        yield name, (TensorInfo(name, content.shape, content.dtype), [content])
    elif isinstance(content, dict) and content.get(CHUNKED_KEY) is True:
        name = prefix.removesuffix(".")
        shape = tuple(content["shape"][str(i)] for i in range(len(content["shape"])))
        chunks = [content["chunks"][str(i)] for i in range(len(content["chunks"]))]
        if not all(is_size(n) for n in shape) or len({c.dtype for c in chunks}) != 1:
            raise ValueError(f"the chunks of {name[:80]!r} have different dtypes or an invalid shape")
        if sum(math.prod(c.shape) for c in chunks) != math.prod(shape):
            raise ValueError(f"the chunks of {name[:80]!r} do not add up to its shape")
        yield name, (TensorInfo(name, shape, chunks[0].dtype), chunks)
    elif isinstance(content, dict):
        for key, value in content.items():
            if key not in JAX_OPTIMIZER_KEYS:
                yield from _iterate_arrays(value, f"{prefix}{key}.")


class _Walker:
    """Scans msgpack and records the location of each array and the keys that lead to it."""

    def __init__(self, extent: Extent) -> None:
        self.cursor = Cursor(extent)
        self.items = 0

    def walk(self) -> Any:
        """Read the structure of the file: maps and lists of :class:`StoredArray`, numbers and strings."""
        content = self._read_item(0)
        if self.cursor.at != self.cursor.extent.length:
            raise ValueError("it continues after its content ends")
        return content

    def _read_item(self, depth: int) -> Any:
        self.items += 1
        if depth > MAX_NESTING_DEPTH or self.items > MAX_ITEMS:
            raise ValueError(f"it has more than {MAX_NESTING_DEPTH} levels or {MAX_ITEMS:,} items, the limits")
        first = self.cursor.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 0x100
        if first < 0x90:
            return self._read_map(first & 0x0F, depth)
        if first < 0xA0:
            return self._read_list(first & 0x0F, depth)
        if first < 0xC0:
            return self._read_text(first & 0x1F)
        return self._read_tagged_item(first, depth)

    def _read_tagged_item(self, first: int, depth: int) -> Any:
        number = self.cursor.number
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if 0xC4 <= first <= 0xC6:
            self.cursor.skip(number((">B", ">H", ">I")[first - 0xC4]))
            return None
        if 0xC7 <= first <= 0xC9:
            return self._read_extension(number((">B", ">H", ">I")[first - 0xC7]))
        if 0xCA <= first <= 0xD3:
            return number((">f", ">d", ">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q")[first - 0xCA])
        if 0xD4 <= first <= 0xD8:
            return self._read_extension(1 << (first - 0xD4))
        if 0xD9 <= first <= 0xDB:
            return self._read_text(number((">B", ">H", ">I")[first - 0xD9]))
        if first in (0xDC, 0xDD):
            return self._read_list(number(">H" if first == 0xDC else ">I"), depth)
        if first in (0xDE, 0xDF):
            return self._read_map(number(">H" if first == 0xDE else ">I"), depth)
        raise ValueError(f"it contains the byte {first:#x} as a type, which msgpack does not use")

    def _read_map(self, count: int, depth: int) -> dict[Any, Any]:
        entries: dict[Any, Any] = {}
        for _ in range(count):
            key = self._read_item(depth + 1)
            if not isinstance(key, str | int):
                raise ValueError("a key is neither a string nor an integer")
            if key in entries:
                raise ValueError(f"two entries are called {str(key)[:80]!r}")
            entries[key] = self._read_item(depth + 1)
        return entries

    def _read_list(self, count: int, depth: int) -> dict[Any, Any]:
        return {str(i): self._read_item(depth + 1) for i in range(count)}

    def _read_text(self, length: int) -> str | None:
        if length > MAX_KEY_BYTES:
            self.cursor.skip(length)
            return None
        return self.cursor.take(length).decode("utf-8")

    def _read_extension(self, length: int) -> StoredArray | None:
        """Read an extension; an array in it is packed as [shape, dtype, bytes]."""
        kind, stop = self.cursor.number(">b"), self.cursor.at + length
        array = None
        if kind in (ARRAY_EXTENSION, SCALAR_EXTENSION):
            array = self._locate_array(stop)
        self.cursor.skip(stop - self.cursor.at)
        return array

    def _locate_array(self, stop: int) -> StoredArray:
        if self.cursor.take(1) != b"\x93":
            raise ValueError("an array is not packed as [shape, dtype, bytes]")
        sizes, dtype = self._read_item(0), self._read_item(0)
        shape = tuple(sizes.values()) if isinstance(sizes, dict) else ()
        if not isinstance(dtype, str) or len(shape) > MAX_AXES or not all(is_size(n) for n in shape):
            raise ValueError("an array has an invalid shape or dtype")
        first = self.cursor.take(1)[0]
        if not 0xC4 <= first <= 0xC6:
            raise ValueError("an array has no bytes")
        length = self.cursor.number((">B", ">H", ">I")[first - 0xC4])
        width = as_dtype(dtype).itemsize
        if math.prod(shape) * width != length or self.cursor.at + length > stop:
            raise ValueError(f"{length:,} bytes cannot hold an array of shape {str(shape)[:80]} and dtype {dtype[:20]}")
        return StoredArray(dtype, shape, self.cursor.at)
