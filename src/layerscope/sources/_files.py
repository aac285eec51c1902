"""Files, on this machine or in a store: stretches of them, read only when asked for.

A path is a :class:`pathlib.Path`, or universal_pathlib's UPath for a URL (``s3://``, ``gs://``, ``hf://``).
Local arrays are mapped, remote ones are fetched as one range each.
"""

from __future__ import annotations

import bisect
import functools
import io
import json
import math
import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from layerscope.errors import Unreadable

if TYPE_CHECKING:
    from layerscope.types import Array

MOST_PARTS = 1 << 22  # of a JSON text
CHUNK = 1 << 22  # bytes fetched at a time from a header
LONGEST_DIRECTORY = 64 << 20  # bytes of a zip's table of members: half a million of them
DAMAGE = (zipfile.BadZipFile, EOFError, OSError, struct.error, NotImplementedError, RuntimeError, ValueError)


def is_path(target: Any) -> bool:
    """A path, here or in a store."""
    upath = sys.modules.get("upath")
    return isinstance(target, Path) or (upath is not None and isinstance(target, upath.UPath))


def is_file(target: Any) -> bool:
    """A path to a file that is there."""
    return is_path(target) and bool(target.is_file())


def is_folder(target: Any) -> bool:
    """A path to a folder that is there."""
    return is_path(target) and bool(target.is_dir())


def size_of(path: Path) -> int:
    """Bytes of a file."""
    return int(path.stat().st_size)


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


def whole(path: Path) -> Extent:
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
        here = self.at - self.begin
        if not 0 <= here <= here + count <= len(self.chunk):
            self.chunk, self.begin, here = self.extent.read(self.at, max(CHUNK, count)), self.at, 0
        self.at += count
        return self.chunk[here : here + count]

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


class Archive:
    """The members of a zip, none of them unpacked.

    :raises Unreadable: damaged, a table of members beyond any use, or two of one name.
    """

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self.members: dict[str, zipfile.ZipInfo] = {}
        path = extent.path
        try:
            if _directory_size(extent) > LONGEST_DIRECTORY:
                raise Unreadable(f"{path}: a zip with a table of members longer than any model's")
            with unzipping(extent) as archive:
                for info in archive.infolist():
                    if info.filename in self.members:
                        raise Unreadable(f"{path}: two members of the zip are called {info.filename[:80]!r}")
                    self.members[info.filename] = info
                starts = sorted(info.header_offset for info in self.members.values())
                self._ends = [*starts, archive.start_dir, extent.length]
        except DAMAGE as error:
            raise Unreadable(f"{path}: damaged or truncated zip: {error}") from None

    def stored(self, name: str) -> Extent:
        """Where a member lies that is not compressed.

        :raises Unreadable: it is missing, compressed, or lies elsewhere than the table says.
        """
        info = self._info(name)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise Unreadable(f"{self.extent.path}: {name} is compressed, which its writer never does")
        header = self.extent.read(info.header_offset, 30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise Unreadable(f"{self.extent.path}: truncated")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = info.header_offset + 30 + name_length + extra_length
        called = self.extent.read(info.header_offset + 30, name_length)
        if called not in (name.encode("utf-8"), name.encode("cp437", "replace")):
            raise Unreadable(f"{self.extent.path}: {name} lies elsewhere than the zip's table says")
        if start + info.file_size > self.after(info):
            raise Unreadable(f"{self.extent.path}: truncated")
        return Extent(self.extent.path, self.extent.start + start, info.file_size)

    def after(self, info: zipfile.ZipInfo) -> int:
        """Where the next member begins, or the table of members."""
        return self._ends[bisect.bisect_right(self._ends, info.header_offset)]

    def read(self, name: str, longest: int) -> bytes:
        """A small member, unpacked if need be.

        :raises Unreadable: it is missing, damaged, or longer than ``longest`` bytes.
        """
        info = self._info(name)
        if info.file_size > longest:
            raise Unreadable(f"{self.extent.path}: {name} has {info.file_size:,} bytes, at most {longest:,} are read")
        try:
            with unzipping(self.extent) as archive, archive.open(info) as member:
                return member.read(longest + 1)[:longest]
        except Exception as error:  # zlib, lzma and bz2 have each their own
            raise Unreadable(f"{self.extent.path}: {name} is damaged: {error}") from None

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self.members:
            raise Unreadable(f"{self.extent.path}: {name} is missing")
        return self.members[name]


def parsed(path: Path, longest: int) -> Any:
    """A small JSON file.

    :raises ValueError: it is none, or larger or of more parts than any model's.
    """
    raw = whole(path).read(0, longest + 1)
    if len(raw) > longest:
        raise ValueError(f"more than {longest:,} bytes")
    return parse(raw)


def parse(raw: bytes | str) -> Any:
    """JSON from a stranger: what would become more objects than any model has is not built.

    :raises ValueError: it is no JSON, or of more parts than any model's.
    """
    raw = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if raw.count(b"[") + raw.count(b"{") + raw.count(b",") > MOST_PARTS:
        raise ValueError(f"more than {MOST_PARTS:,} parts")
    return json.loads(raw.decode("utf-8"))


@contextmanager
def unzipping(extent: Extent) -> Iterator[zipfile.ZipFile]:
    """The library's view of a zip, its file closed afterwards."""
    with extent.open() as file, zipfile.ZipFile(file) as archive:
        yield archive


def zip_names(path: Path) -> tuple[str, ...]:
    """Names in a zip; empty when it is none, or a damaged one."""
    stat = path.stat()
    return _zip_names(path, stat.st_size, getattr(stat, "st_mtime", 0))


@functools.lru_cache(maxsize=8)
def _zip_names(path: Path, size: int, changed: float) -> tuple[str, ...]:
    extent = Extent(path, 0, size)
    if extent.read(0, 2) != b"PK":
        return ()
    try:
        return tuple(Archive(extent).members)
    except Unreadable:
        return ()


def _directory_size(extent: Extent) -> int:
    """Bytes of a zip's table of members, as the record says that the library will believe; 0 where there is none.

    zipfile reads the whole table on opening, so its size is asked for first, and of zipfile itself: a second parser
    could be shown another record than the one that is then believed.
    """
    with extent.open() as file:
        record = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    return int(record[5]) if record else 0
