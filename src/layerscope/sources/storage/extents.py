"""Files, on this machine or in a store: stretches of them, read only when asked for.

A path is a :class:`pathlib.Path`, or universal_pathlib's UPath for a URL (``s3://``, ``gs://``, ``hf://``).
Local arrays are mapped, remote ones are fetched as one range each.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from layerscope.errors import Unreadable
from layerscope.sources.storage.paths import size_of

if TYPE_CHECKING:
    from layerscope.array_types import Array
CHUNK_BYTES = 1 << 22  # bytes fetched at a time from a header


@dataclass(frozen=True)
class Extent:
    """A stretch of a file that stands for a file of its own: all of it, or a member of an archive."""

    path: Path
    start: int  # byte
    length: int  # bytes

    def read(self, offset: int = 0, count: int | None = None) -> bytes:
        """At most ``count`` bytes from ``offset``, as far as there are any."""
        count = self.length - offset if count is None else min(count, self.length - offset)
        if count <= 0 or offset < 0:
            return b""
        if not isinstance(self.path, Path):
            begin = self.start + offset
            return bytes(cast("Any", self.path).fs.cat_file(self.path.path, start=begin, end=begin + count))
        with self.path.open("rb") as file:
            file.seek(self.start + offset)
            return file.read(count)

    def array(self, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> Array:
        """The numbers that lie there; nothing else of the file is touched, and a mapping goes with its array.

        :raises Unreadable: they would reach beyond the end.
        """
        count = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise Unreadable(f"{self.path}: pointers are no numbers")
        if offset < 0 or offset + count > self.length or self.start + offset + count > size_of(self.path):
            raise Unreadable(f"{self.path}: became shorter while it was read, or was cut")
        if count == 0:
            return np.empty(shape, dtype)
        if isinstance(self.path, Path):
            return np.memmap(self.path, dtype=dtype, mode="r", offset=self.start + offset, shape=shape)
        return np.frombuffer(self.read(offset, count), dtype).reshape(shape)

    def open(self) -> BinaryIO:
        """A file object on it, for libraries that want one."""
        file = self.path.open("rb")
        if self.start == 0 and self.length == size_of(self.path):
            return cast("BinaryIO", file)
        return cast("BinaryIO", io.BufferedReader(_Window(file, self.start, self.length)))


def whole_file(path: Path) -> Extent:
    """All of a file."""
    return Extent(path, 0, size_of(path))


class Cursor:
    """Reads an extent from its start, a chunk at a time."""

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self.chunk, self.begin, self.at = b"", 0, 0

    def take(self, count: int) -> bytes:
        """The next bytes; all of them, or an error."""
        if self.at + count > self.extent.length:
            raise ValueError(f"it ends after {self.extent.length:,} bytes")
        position = self.at - self.begin
        if not 0 <= position <= position + count <= len(self.chunk):
            self.chunk, self.begin, position = self.extent.read(self.at, max(CHUNK_BYTES, count)), self.at, 0
        self.at += count
        return self.chunk[position : position + count]

    def number(self, form: str) -> Any:
        """The next number in a struct's format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def skip(self, count: int) -> None:
        """Step over bytes, which must be there."""
        if self.at + count > self.extent.length:
            raise ValueError(f"it ends after {self.extent.length:,} bytes")
        self.at += count


class _Window(io.RawIOBase):
    """The bytes from ``start`` on as a file of their own."""

    def __init__(self, file: Any, start: int, length: int) -> None:
        self.file, self.start, self.length, self.at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, (0, self.at, self.length)[whence] + offset)
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self.length - self.at))
        self.file.seek(self.start + self.at)
        data = self.file.read(count)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()
