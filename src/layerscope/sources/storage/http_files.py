"""Files on web servers, which are not trusted: every read asks for a range, and takes no more than it asked for.

A server that ignores ranges, sends more than it said, or never answers ends in one error. All limits are below.
"""

from __future__ import annotations

import base64
import http.client
import io
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, BinaryIO, NamedTuple, cast

from layerscope.errors import TargetNotFound, Unreadable

TIMEOUT_SECONDS = 10.0  # to connect, and between two pieces of an answer
MIN_BYTES_PER_SECOND = 20_000  # a slower answer is given up
GRACE_SECONDS = 20.0  # beside the time that a read takes at that speed
ATTEMPTS = 3  # for errors that may pass
RETRIED_STATUS = (408, 429, 500, 502, 503, 504)
PIECE_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20  # that a file object reads ahead


class Answer(NamedTuple):
    """The status of a server's answer, its headers and its body."""

    status: int
    headers: Any
    body: bytes


def file_size(url: str) -> int:
    """Return the size of a file on a server that serves ranges.

    :raises TargetNotFound: there is no such file.
    :raises Unreadable: the server does not serve ranges, or does not answer.
    """
    answer = _ask(url, "bytes=0-0", 1)
    size = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if answer.status == 206 and size.isdigit():
        return int(size)
    if answer.status == 416 and size == "0":
        return 0
    raise Unreadable(_no_ranges(url, answer.status))


def read_range(url: str, start: int, count: int) -> bytes:
    """Return ``count`` bytes of a file, from ``start``.

    :raises Unreadable: the server sends something else, or nothing in time.
    """
    if count <= 0:
        return b""
    answer = _ask(url, f"bytes={start}-{start + count - 1}", count)
    if answer.status != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise Unreadable(_no_ranges(url, answer.status))
    if len(answer.body) != count:
        found = f"asked for {count:,} bytes, got {'more' if len(answer.body) > count else f'{len(answer.body):,}'}"
        raise Unreadable(f"{url}: {found}; download the file and pass its path")
    return answer.body


def open_file(url: str) -> BinaryIO:
    """Open a file on a server as a file object that can be read and searched."""
    return cast("BinaryIO", io.BufferedReader(_RangeReader(url, file_size(url)), BLOCK_BYTES))


def _ask(url: str, wanted: str, count: int) -> Answer:
    """Ask for a range, a few times if the error may pass, and read at most one byte more than it has."""
    deadline = time.monotonic() + GRACE_SECONDS + count / MIN_BYTES_PER_SECOND
    request = _request(url, wanted)
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(min(0.2 * 2**attempt, max(0.0, deadline - time.monotonic())))
        try:
            with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as response:
                if response.status != 206:
                    return Answer(response.status, response.headers, b"")
                return Answer(response.status, response.headers, _read_body(response, count, deadline))
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:
                    return Answer(416, error.headers, b"")
                if error.code in (404, 410):
                    raise TargetNotFound(f"{url} does not exist (HTTP {error.code})") from None
                reason = f"the server answers HTTP {error.code}"
                if error.code not in RETRIED_STATUS:
                    break
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            reason = f"{type(cause).__name__}: {str(cause)[:100]}"
        if time.monotonic() >= deadline:
            break
    raise Unreadable(f"{url}: {reason}; try again later, or download the file and pass its path")


def _read_body(response: Any, count: int, deadline: float) -> bytes:
    pieces, size = [], 0
    while size <= count:
        if time.monotonic() > deadline:
            raise TimeoutError("the answer is too slow")
        piece = response.read(min(PIECE_BYTES, count + 1 - size))
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _request(url: str, wanted: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    headers = {"Range": wanted, "Accept-Encoding": "identity", "User-Agent": "layerscope"}
    if at:
        credentials = urllib.parse.unquote(user).encode("utf-8")
        headers["Authorization"] = "Basic " + base64.b64encode(credentials).decode("ascii")
    return urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=place)), headers=headers)


class _SameHostRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to web servers, but sends the password to no other server."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(("http://", "https://")):
            return None
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(req.full_url).netloc:
            new.headers.pop("Authorization", None)
        return new


_OPENER = urllib.request.build_opener(_SameHostRedirects)


def _no_ranges(url: str, status: int) -> str:
    return (
        f"{url}: the server does not serve parts of files (HTTP {status} instead of 206); "
        "download the file and pass its path"
    )


class _RangeReader(io.RawIOBase):
    """A read-only file object that reads ranges."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size, self.at = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, (0, self.at, self.size)[whence] + offset)
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self.size - self.at))
        data = read_range(self.url, self.at, count)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)
