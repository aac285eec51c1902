"""Members of a zip archive, read where they lie; truncated and damaged archives are refused."""

from __future__ import annotations

import bisect
import functools
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layerscope.errors import Unreadable
from layerscope.sources.storage.extents import Extent

MAX_DIRECTORY_BYTES = 64 << 20  # bytes of a zip's table of members: half a million of them
ZIP_ERRORS = (zipfile.BadZipFile, EOFError, OSError, struct.error, NotImplementedError, RuntimeError, ValueError)


class Archive:
    """The members of a zip, none of them unpacked.

    :raises Unreadable: damaged, a table of members beyond any use, or two of one name.
    """

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self.members: dict[str, zipfile.ZipInfo] = {}
        path = extent.path
        try:
            if _directory_size(extent) > MAX_DIRECTORY_BYTES:
                raise Unreadable(f"{path}: a zip with a table of members longer than any model's")
            with open_zip(extent) as archive:
                for info in archive.infolist():
                    if info.filename in self.members:
                        raise Unreadable(f"{path}: two members of the zip are called {info.filename[:80]!r}")
                    self.members[info.filename] = info
                starts = sorted(info.header_offset for info in self.members.values())
                self._ends = [*starts, archive.start_dir, extent.length]
        except ZIP_ERRORS as error:
            raise Unreadable(f"{path}: damaged or truncated zip: {error}") from None

    def stored_extent(self, name: str) -> Extent:
        """Where a member lies that is not compressed.

        :raises Unreadable: it is missing, compressed, or lies elsewhere than the table says.
        """
        info = self._find_member(name)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise Unreadable(f"{self.extent.path}: {name} is compressed, which its writer never does")
        header = self.extent.read(info.header_offset, 30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise Unreadable(f"{self.extent.path}: truncated")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = info.header_offset + 30 + name_length + extra_length
        stored_name = self.extent.read(info.header_offset + 30, name_length)
        if stored_name not in (name.encode("utf-8"), name.encode("cp437", "replace")):
            raise Unreadable(f"{self.extent.path}: {name} lies elsewhere than the zip's table says")
        if start + info.file_size > self.next_member_start(info):
            raise Unreadable(f"{self.extent.path}: truncated")
        return Extent(self.extent.path, self.extent.start + start, info.file_size)

    def next_member_start(self, info: zipfile.ZipInfo) -> int:
        """Where the next member begins, or the table of members."""
        return self._ends[bisect.bisect_right(self._ends, info.header_offset)]

    def read(self, name: str, max_bytes: int) -> bytes:
        """A small member, unpacked if need be.

        :raises Unreadable: it is missing, damaged, or longer than ``max_bytes`` bytes.
        """
        info = self._find_member(name)
        if info.file_size > max_bytes:
            raise Unreadable(f"{self.extent.path}: {name} has {info.file_size:,} bytes, at most {max_bytes:,} are read")
        try:
            with open_zip(self.extent) as archive, archive.open(info) as member:
                return member.read(max_bytes + 1)[:max_bytes]
        except Exception as error:  # zlib, lzma and bz2 have each their own
            raise Unreadable(f"{self.extent.path}: {name} is damaged: {error}") from None

    def _find_member(self, name: str) -> zipfile.ZipInfo:
        if name not in self.members:
            raise Unreadable(f"{self.extent.path}: {name} is missing")
        return self.members[name]


@contextmanager
def open_zip(extent: Extent) -> Iterator[zipfile.ZipFile]:
    """The library's view of a zip, its file closed afterwards."""
    with extent.open() as file, zipfile.ZipFile(file) as archive:
        yield archive


def zip_names(path: Path) -> tuple[str, ...]:
    """Names in a zip; empty when it is none, or a damaged one."""
    stat = path.stat()
    return _cached_zip_names(path, stat.st_size, getattr(stat, "st_mtime", 0))


@functools.lru_cache(maxsize=8)
def _cached_zip_names(path: Path, size: int, modified: float) -> tuple[str, ...]:
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
