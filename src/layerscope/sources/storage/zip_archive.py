"""Read members of a zip archive in place; truncated and damaged archives are rejected."""

from __future__ import annotations

import bisect
import functools
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from layerscope.errors import Unreadable
from layerscope.sources.storage.extents import Extent

MAX_DIRECTORY_BYTES = 64 << 20  # of the table of members, about half a million entries
MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO = 256 << 20, 200  # a member may unpack to the larger of both
ZIP_ERRORS = (zipfile.BadZipFile, EOFError, OSError, struct.error, NotImplementedError, RuntimeError, ValueError)


class Archive:
    """The members of a zip archive, which are not unpacked.

    :raises Unreadable: the archive is damaged, its table of members is too long, or two members have the same name.
    """

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self.members: dict[str, zipfile.ZipInfo] = {}
        path = extent.path
        try:
            if _directory_size(extent) > MAX_DIRECTORY_BYTES:
                raise Unreadable(f"{path}: the zip's table of members exceeds {MAX_DIRECTORY_BYTES:,} bytes")
            with extent.open() as file, zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    if info.filename in self.members:
                        raise Unreadable(f"{path}: two members of the zip are named {info.filename[:80]!r}")
                    self.members[info.filename] = info
                starts = sorted(info.header_offset for info in self.members.values())
                self._ends = [*starts, archive.start_dir, extent.length]
        except ZIP_ERRORS as error:
            raise Unreadable(f"{path}: damaged or truncated zip: {error}") from None

    def stored_extent(self, name: str) -> Extent:
        """Return the location of an uncompressed member.

        :raises Unreadable: the member is missing, compressed, or not where the table of members says.
        """
        info = self._find_member(name)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise Unreadable(
                f"{self.extent.path}: {name} is compressed or encrypted, and only uncompressed members are read"
            )
        return self._extent_of(info)

    def _extent_of(self, info: zipfile.ZipInfo) -> Extent:
        """Return the location of a member's bytes, as they are stored."""
        header = self.extent.read(info.header_offset, 30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise Unreadable(f"{self.extent.path}: truncated zip; copy or download it again")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = info.header_offset + 30 + name_length + extra_length
        stored_name = self.extent.read(info.header_offset + 30, name_length)
        if stored_name not in (info.orig_filename.encode("utf-8"), info.orig_filename.encode("cp437", "replace")):
            raise Unreadable(f"{self.extent.path}: {info.filename} is not where the zip's table of members says")
        if start + info.compress_size > self.next_member_start(info):
            raise Unreadable(f"{self.extent.path}: truncated zip; copy or download it again")
        return Extent(self.extent.path, self.extent.start + start, info.compress_size)

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a member as a file that unpacks and checks it; the table of members is not read again.

        :raises Unreadable: the member is missing, encrypted, not where the table of members says, or unpacks to far
            more than is stored.
        """
        info = self._find_member(name)
        if info.flag_bits & 1:
            raise Unreadable(f"{self.extent.path}: {name} is encrypted; save it without a password")
        if info.file_size > max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * info.compress_size):
            raise Unreadable(
                f"{self.extent.path}: {name} has {info.compress_size:,} bytes, which unpack to {info.file_size:,}; "
                f"above {MAX_UNPACKED_BYTES >> 20} MiB, at most {MAX_UNPACKED_RATIO} times as many are accepted"
            )
        with self._extent_of(info).open() as stored:
            yield cast("IO[bytes]", zipfile.ZipExtFile(stored, "r", info))

    def next_member_start(self, info: zipfile.ZipInfo) -> int:
        """Return the position of the next member, or of the table of members."""
        return self._ends[bisect.bisect_right(self._ends, info.header_offset)]

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the contents of a small member, unpacked if necessary.

        :raises Unreadable: the member is missing, damaged, or longer than ``max_bytes`` bytes.
        """
        info = self._find_member(name)
        if info.file_size > max_bytes:
            raise Unreadable(f"{self.extent.path}: {name} has {info.file_size:,} bytes; the limit is {max_bytes:,}")
        try:
            with self.open(name) as member:
                return member.read(max_bytes + 1)[:max_bytes]
        except Unreadable:
            raise
        except Exception as error:  # zlib, lzma and bz2 each raise their own
            raise Unreadable(f"{self.extent.path}: {name} is damaged: {error}") from None

    def _find_member(self, name: str) -> zipfile.ZipInfo:
        if name not in self.members:
            raise Unreadable(f"{self.extent.path}: {name} is missing from the zip")
        return self.members[name]


def zip_names(path: Path) -> tuple[str, ...]:
    """Return the names in a zip; empty if the file is not a zip, or is damaged."""
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
    """Return the size in bytes of a zip's table of members, as zipfile will read it; 0 if there is none.

    zipfile reads the whole table on opening, so the size is checked first. It comes from zipfile itself, because a
    second parser could find another record than the one that zipfile uses.
    """
    with extent.open() as file:
        record = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    return int(record[5]) if record else 0
