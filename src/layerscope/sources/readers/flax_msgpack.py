"""Flax checkpoints (.msgpack): walked without being unpacked, so that one array at a time is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.state_dict import Tensors, of_flax
from layerscope.sources.storage.dtypes import MOST_AXES, as_dtype
from layerscope.sources.storage.extents import Cursor, Extent, whole
from layerscope.sources.storage.paths import is_file
from layerscope.sources.targets import spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
ARRAY, SCALAR = 1, 3  # Flax's extension types
CHUNKED = "__msgpack_chunked_array__"
DEEPEST = 64  # maps in maps
MOST_ITEMS = 1 << 21
LONGEST_KEY = 1 << 16  # bytes
SKIPPED = ("opt_state",)


@dataclass(frozen=True)
class Stored:
    """Where one array lies."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def accepts(target: Any) -> bool:
    """A file called .msgpack, or checkpoint_N that opens with a map."""
    if not is_file(target):
        return False
    if target.suffix == ".msgpack":
        return True
    head = whole(target).read(0, 1)
    return target.name.startswith("checkpoint_") and bool(head) and (head[0] >> 4 == 8 or head[0] in (0xDE, 0xDF))


def open(target: Path) -> Tensors:
    """Read names and shapes."""
    extent = whole(target)
    try:
        content = _Walker(extent).walk()
        leaves = list(_leaves(content, ""))
        found = dict(leaves)
        if len(found) < len(leaves):
            raise ValueError("two arrays of one name")
    except (ValueError, RecursionError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise Unreadable(f"{target}: not a Flax checkpoint, or damaged: {error}") from None
    if not found:
        raise Unreadable(f"{target}: a msgpack file without arrays")

    def fetch(name: str) -> Array:
        info, chunks = found[name]
        parts = [extent.array(as_dtype(c.dtype), c.start, c.shape) for c in chunks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts).reshape(info.shape)

    return of_flax(spec(target, "flax_msgpack", portable=True), (info for info, _ in found.values()), fetch)


def _leaves(content: Any, prefix: str) -> Iterator[tuple[str, tuple[TensorInfo, list[Stored]]]]:
    if isinstance(content, Stored):
        name = prefix.removesuffix(".") or "array"
        yield name, (TensorInfo(name, content.shape, content.dtype), [content])
    elif isinstance(content, dict) and content.get(CHUNKED) is True:
        name = prefix.removesuffix(".")
        shape = tuple(content["shape"][str(i)] for i in range(len(content["shape"])))
        chunks = [content["chunks"][str(i)] for i in range(len(content["chunks"]))]
        if not all(_is_size(n) for n in shape) or len({c.dtype for c in chunks}) != 1:
            raise ValueError(f"{name[:80]!r} is made of chunks of several kinds")
        if sum(math.prod(c.shape) for c in chunks) != math.prod(shape):
            raise ValueError(f"the chunks of {name[:80]!r} do not make up its shape")
        yield name, (TensorInfo(name, shape, chunks[0].dtype), chunks)
    elif isinstance(content, dict):
        for key, value in content.items():
            if key not in SKIPPED:
                yield from _leaves(value, f"{prefix}{key}.")


class _Walker:
    """Steps through msgpack, remembering where arrays lie and what keys lead to them."""

    def __init__(self, extent: Extent) -> None:
        self.cursor = Cursor(extent)
        self.items = 0

    def walk(self) -> Any:
        """What the file holds: maps and lists of Stored, small numbers and nothing else."""
        content = self._item(0)
        if self.cursor.at != self.cursor.extent.length:
            raise ValueError("data after its end")
        return content

    def _item(self, depth: int) -> Any:
        self.items += 1
        if depth > DEEPEST or self.items > MOST_ITEMS:
            raise ValueError("nested or long beyond any checkpoint")
        first = self.cursor.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 0x100
        if first < 0x90:
            return self._map(first & 0x0F, depth)
        if first < 0xA0:
            return self._list(first & 0x0F, depth)
        if first < 0xC0:
            return self._text(first & 0x1F)
        return self._long(first, depth)

    def _long(self, first: int, depth: int) -> Any:
        number = self.cursor.number
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if 0xC4 <= first <= 0xC6:
            self.cursor.skip(number((">B", ">H", ">I")[first - 0xC4]))
            return None
        if 0xC7 <= first <= 0xC9:
            return self._extension(number((">B", ">H", ">I")[first - 0xC7]))
        if 0xCA <= first <= 0xD3:
            return number((">f", ">d", ">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q")[first - 0xCA])
        if 0xD4 <= first <= 0xD8:
            return self._extension(1 << (first - 0xD4))
        if 0xD9 <= first <= 0xDB:
            return self._text(number((">B", ">H", ">I")[first - 0xD9]))
        if first in (0xDC, 0xDD):
            return self._list(number(">H" if first == 0xDC else ">I"), depth)
        if first in (0xDE, 0xDF):
            return self._map(number(">H" if first == 0xDE else ">I"), depth)
        raise ValueError(f"the byte {first:#x}, which msgpack does not use")

    def _map(self, count: int, depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for _ in range(count):
            key = self._item(depth + 1)
            if not isinstance(key, str | int):
                raise ValueError("a key that is no name")
            if key in made:
                raise ValueError(f"two entries are called {str(key)[:80]!r}")
            made[key] = self._item(depth + 1)
        return made

    def _list(self, count: int, depth: int) -> dict[Any, Any]:
        return {str(i): self._item(depth + 1) for i in range(count)}

    def _text(self, length: int) -> str | None:
        if length > LONGEST_KEY:
            self.cursor.skip(length)
            return None
        return self.cursor.take(length).decode("utf-8")

    def _extension(self, length: int) -> Stored | None:
        """An array is packed again: [shape, dtype, bytes]."""
        kind, stop = self.cursor.number(">b"), self.cursor.at + length
        stored = None
        if kind in (ARRAY, SCALAR):
            stored = self._array(stop)
        self.cursor.skip(stop - self.cursor.at)
        return stored

    def _array(self, stop: int) -> Stored:
        if self.cursor.take(1) != b"\x93":
            raise ValueError("an array that is none")
        sizes, dtype = self._item(0), self._item(0)
        shape = tuple(sizes.values()) if isinstance(sizes, dict) else ()
        if not isinstance(dtype, str) or len(shape) > MOST_AXES or not all(_is_size(n) for n in shape):
            raise ValueError("an array with an impossible shape or dtype")
        first = self.cursor.take(1)[0]
        if not 0xC4 <= first <= 0xC6:
            raise ValueError("an array without its bytes")
        length = self.cursor.number((">B", ">H", ">I")[first - 0xC4])
        width = as_dtype(dtype).itemsize
        if math.prod(shape) * width != length or self.cursor.at + length > stop:
            raise ValueError(f"{length:,} bytes for an array of {str(shape)[:80]} {dtype[:20]}")
        return Stored(dtype, shape, self.cursor.at)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
