"""Paths of files on web servers, with the parts of pathlib's interface that readers use."""

from __future__ import annotations

import os
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from layerscope.errors import TargetNotFound
from layerscope.sources.storage import http_files

SIZE_SECONDS = 60.0  # for which the size of a file is not asked again
_sizes: dict[str, tuple[float, int]] = {}


class HttpFile:
    """A file on a web server. It is never a folder: the listing of one is a page of unknown length.

    ``str`` gives the whole URL, with password and query; names in results and errors leave these out.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._path = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path))

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"HttpFile({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HttpFile) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __truediv__(self, name: str) -> HttpFile:
        return self._moved(self._path / name)

    def __lt__(self, other: HttpFile) -> bool:
        return self.url < other.url

    @property
    def name(self) -> str:
        """The last part of the URL, without its query."""
        return self._path.name

    @property
    def suffix(self) -> str:
        """The suffix of the name."""
        return self._path.suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self._path.stem

    @property
    def parent(self) -> HttpFile:
        """The URL of the folder."""
        return self._moved(self._path.parent)

    def with_name(self, name: str) -> HttpFile:
        """The file of another name beside this one."""
        return self._moved(self._path.with_name(name))

    def _moved(self, path: PurePosixPath) -> HttpFile:
        parts = urllib.parse.urlsplit(self.url)
        return HttpFile(urllib.parse.urlunsplit(parts._replace(path=urllib.parse.quote(str(path)))))

    def stat(self) -> os.stat_result:
        """Ask the server for the size; nothing else is known."""
        known = _sizes.get(self.url)
        if known is None or time.monotonic() - known[0] > SIZE_SECONDS:
            known = _sizes[self.url] = time.monotonic(), http_files.file_size(self.url)
        return os.stat_result((0o100444, 0, 0, 1, 0, 0, known[1], 0, 0, 0))

    def exists(self) -> bool:
        """Does the server have the file?"""
        try:
            self.stat()
        except TargetNotFound:
            return False
        return True

    def is_file(self) -> bool:
        """Does the server have the file?"""
        return self.exists()

    def is_dir(self) -> bool:
        """Never."""
        return False

    def iterdir(self) -> Iterator[HttpFile]:
        """Nothing is inside."""
        return iter(())

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open the file for reading bytes."""
        if mode != "rb":
            raise ValueError(f"mode={mode!r}: a file on a server is read as bytes, mode='rb'")
        return http_files.open_file(self.url)

    def read_bytes(self) -> bytes:
        """Read the whole file."""
        return http_files.read_range(self.url, 0, self.stat().st_size)
