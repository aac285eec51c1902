"""Byte ranges of local and remote files, read only on demand.

A path is a :class:`pathlib.Path`, or universal_pathlib's UPath for a URL (``s3://``, ``gs://``, ``hf://``).
Local arrays are memory-mapped; each remote array is fetched as one range.
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
from layerscope.sources.storage import http_files
from layerscope.sources.storage.http_paths import HttpFile
from layerscope.sources.storage.paths import size_of

if TYPE_CHECKING:
    from layerscope.array_types import Array
CHUNK_BYTES = 1 << 22  # read at a time from a header


@dataclass(frozen=True)
class Extent:
    """A byte range treated as a file: a whole file, or a member of an archive."""

    path: Path
    start: int  # byte
    length: int  # bytes

    def read(self, offset: int = 0, count: int | None = None) -> bytes:
        """Return ``count`` bytes from ``offset``, or fewer if the range ends before."""
        count = self.length - offset if count is None else min(count, self.length - offset)
        if count <= 0 or offset < 0:
            return b""
        if not isinstance(self.path, Path):
            begin = self.start + offset
            if isinstance(self.path, HttpFile):
                return http_files.read_range(self.path.url, begin, count)
            data = bytes(cast("Any", self.path).fs.cat_file(self.path.path, start=begin, end=begin + count))
            if len(data) > count:
                raise Unreadable(f"{self.path}: the store sent {len(data):,} bytes where {count:,} were asked for")
            return data
        with self.path.open("rb") as file:
            file.seek(self.start + offset)
            return file.read(count)

    def array(self, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> Array:
        """Return the array at ``offset`` (in bytes), memory-mapped if the file is local; nothing else is read.

        :raises Unreadable: the array extends beyond the end of the file.
        """
        count = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise Unreadable(f"{self.path}: arrays of Python objects are not supported, only numbers")
        if offset < 0 or offset + count > self.length or self.start + offset + count > size_of(self.path):
            raise Unreadable(f"{self.path}: truncated, or became shorter while it was read; copy or download it again")
        if count == 0:
            return np.empty(shape, dtype)
        if isinstance(self.path, Path):
            return np.memmap(self.path, dtype=dtype, mode="r", offset=self.start + offset, shape=shape)
        return np.frombuffer(self.read(offset, count), dtype).reshape(shape)

    def open(self) -> BinaryIO:
        """Open the range as a file object, for libraries that need one."""
        file = self.path.open("rb")
        if self.start == 0 and self.length == size_of(self.path):
            return cast("BinaryIO", file)
        return cast("BinaryIO", io.BufferedReader(_Window(file, self.start, self.length)))


def whole_file(path: Path) -> Extent:
    """Return a whole file as an extent."""
    return Extent(path, 0, size_of(path))


class Cursor:
    """Read an extent from its start, one chunk at a time."""

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self.chunk, self.begin, self.at = b"", 0, 0

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes.

        :raises ValueError: the extent ends before.
        """
        if self.at + count > self.extent.length:
            raise ValueError(f"it ends after {self.extent.length:,} bytes")
        position = self.at - self.begin
        if not 0 <= position <= position + count <= len(self.chunk):
            self.chunk, self.begin, position = self.extent.read(self.at, max(CHUNK_BYTES, count)), self.at, 0
        self.at += count
        return self.chunk[position : position + count]

    def number(self, form: str) -> Any:
        """Return the next number, unpacked with a format of :mod:`struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def skip(self, count: int) -> None:
        """Skip the next ``count`` bytes.

        :raises ValueError: the extent ends before.
        """
        if self.at + count > self.extent.length:
            raise ValueError(f"it ends after {self.extent.length:,} bytes")
        self.at += count


class _Window(io.RawIOBase):
    """A read-only file object for a byte range of another file."""

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
