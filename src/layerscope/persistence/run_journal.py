"""Journal of a run in progress: a file to which each check is appended.

The file begins with a line of JSON (schema, name of the run), followed by one record per check. A record has a mark,
the length and checksum of its body, and the body: the step and its numbers as JSON, and the report as packed by
:mod:`~layerscope.persistence.report_file`. If the process is killed, at most the last record is unfinished. It is
ignored, and cut off when the run is resumed.
"""

from __future__ import annotations

import io
import json
import os
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from layerscope.errors import OutputError, Unreadable, UsageError
from layerscope.persistence import report_file
from layerscope.persistence.regular_files import open_regular
from layerscope.persistence.report_json import SCHEMA, parse
from layerscope.validation import matches_type

if TYPE_CHECKING:
    from layerscope.records.report import Report

MAGIC = b"layerscope journal 1\n"
RECORD_MARK = b"STEP"
RECORD_HEADER = struct.Struct("<4sQI")  # mark, length, checksum
MAX_HEADER_BYTES = 10_000  # most bytes of the first two lines
MAX_RECORD_BYTES = 1 << 30  # most bytes of one check
MAX_PASSES = 4  # how often the bytes after a damaged record are read to find a whole one
CHUNK_BYTES = 1 << 20  # of one read


class Record(NamedTuple):
    """One check of a run."""

    step: int
    scalars: Mapping[str, float]
    report: Report
    end: int  # offset of the next record in the file


class Journal:
    """A journal that one process appends to; ``close()`` releases the file for others."""

    def __init__(self, path: str | Path, name: str, *, resume: bool = False) -> None:
        """Open or create the journal of a run.

        :param name: name of the run; a resumed journal keeps its own name.
        :param resume: continue an existing file.
        :raises UsageError: the file exists and ``resume`` is False, or another process is writing it.
        :raises Unreadable: the file is not a journal, or is damaged.
        :raises OutputError: the file cannot be written.
        """
        self.path, self.name = Path(path), name
        if self.path.is_dir() or "\0" in str(path):
            raise OutputError(f"cannot write {str(path)!r}: it is not a file")
        exists = self.path.exists() and self.path.stat().st_size > 0
        if exists and resume and _has_unfinished_header(self.path):
            exists = False
        if exists and not resume:
            raise UsageError(f"{path} already exists: pass resume=True to continue it, or choose another path")
        try:
            self._file: IO[bytes] = self.path.open("r+b" if exists else "w+b")
            _close_in_children(self._file)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
        self.close = weakref.finalize(self, self._file.close)  # closes at the latest when the journal is collected
        try:
            _lock_file(self._file, path)
            self.last: Record | None = None
            if exists:
                self.name, end = _read_header(self._file, path)
                for record in read_records(self.path):
                    self.last, end = record, record.end
                self._file.truncate(end)
                self._file.seek(end)
            else:
                head = json.dumps({"schema": SCHEMA, "name": name}, allow_nan=False)
                self._write(MAGIC + head.encode() + b"\n")
        except BaseException:
            self.close()
            raise

    @property
    def open(self) -> bool:
        """Whether the journal accepts further checks."""
        return not self._file.closed

    def append(self, step: int, scalars: Mapping[str, float], report: Report) -> None:
        """Append a check and write it to disk.

        :raises OutputError: the check cannot be written, e.g. because the disk is full; the file is unchanged.
        """
        numbers = json.dumps({"step": step, "scalars": dict(scalars)}, allow_nan=False).encode()
        body = struct.pack("<I", len(numbers)) + numbers + report_file.pack_report(report)
        if len(body) > MAX_RECORD_BYTES:
            raise OutputError(f"cannot write {self.path}: a check of {len(body):,} bytes; at most {MAX_RECORD_BYTES:,}")
        self._write(RECORD_HEADER.pack(RECORD_MARK, len(body), zlib.crc32(body)) + body)

    def _write(self, data: bytes) -> None:
        before = self._file.tell()
        try:
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            try:
                self._file.seek(before)
                self._file.truncate(before)
            except OSError:  # the unfinished record is ignored when the file is read
                pass
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from None


def is_journal(path: str | Path) -> bool:
    """Whether the file is a journal, judged by its content."""
    try:
        if not Path(path).is_file():  # opening a pipe would block until another process writes to it
            return False
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def read_run_name(path: str | Path) -> str:
    """Read the name of the run from a journal.

    :raises Unreadable: the file is not a journal.
    """
    with open_regular(path) as file:
        return _read_header(file, path)[0]


def read_records(path: str | Path, start: int = 0) -> Iterator[Record]:
    """Yield all complete checks.

    :param start: offset to begin at, the ``end`` of an earlier record; 0 begins with the first check.
    :raises Unreadable: the file is not a journal, is damaged before its last record, or its steps do not increase.
    """
    with open_regular(path) as file:
        size, step = os.fstat(file.fileno()).st_size, -1
        offset = start or _read_header(file, path)[1]
        while offset + RECORD_HEADER.size <= size:
            file.seek(offset)
            mark, length, checksum = RECORD_HEADER.unpack(file.read(RECORD_HEADER.size))
            end = offset + RECORD_HEADER.size + length
            begin = offset + RECORD_HEADER.size
            is_whole = mark == RECORD_MARK and end <= size and length <= MAX_RECORD_BYTES
            if not is_whole or _checksum(file, begin, length) != checksum:
                if not _has_whole_record(file, offset + 1, size):
                    return  # unfinished last record: still being written, or not all of it reached the disk
                raise Unreadable(f"{path} is damaged at byte {offset:,}; the checks before that are intact")
            file.seek(begin)
            record = _parse_record(path, file.read(length), end)
            if record.step <= step:
                raise Unreadable(f"{path}: step {record.step} follows step {step}, but steps must increase")
            step, offset = record.step, end
            yield record


def _has_whole_record(file: IO[bytes], start: int, size: int) -> bool:
    """Whether a complete record follows after a damaged one; True if finding out would take too long.

    Marks can be part of any data, so the bytes that all of them claim are limited to ``MAX_PASSES`` times the size.
    """
    if size - start > 2 * MAX_RECORD_BYTES:  # more than an unfinished record
        return True
    left = MAX_PASSES * (size - start)
    for offset in _mark_offsets(file, start, size):
        file.seek(offset)
        _, length, checksum = RECORD_HEADER.unpack(file.read(RECORD_HEADER.size))
        begin = offset + RECORD_HEADER.size
        if 0 < length <= min(size - begin, MAX_RECORD_BYTES):
            left -= length
            if left < 0 or _checksum(file, begin, length) == checksum:
                return True
    return False


def _mark_offsets(file: IO[bytes], start: int, size: int) -> Iterator[int]:
    """Yield the offsets of all record marks that a whole header follows."""
    overlap = len(RECORD_MARK) - 1
    for begin in range(start, size, CHUNK_BYTES):
        file.seek(begin)
        chunk = file.read(CHUNK_BYTES + overlap)
        place = chunk.find(RECORD_MARK)
        while place >= 0 and begin + place + RECORD_HEADER.size <= size:
            yield begin + place
            place = chunk.find(RECORD_MARK, place + 1)


def _checksum(file: IO[bytes], begin: int, length: int) -> int:
    """Return the CRC-32 of a part of a file, which is never in memory as a whole."""
    file.seek(begin)
    checksum = 0
    for done in range(0, length, CHUNK_BYTES):
        checksum = zlib.crc32(file.read(min(CHUNK_BYTES, length - done)), checksum)
    return checksum


def _has_unfinished_header(path: Path) -> bool:
    """Whether the first lines of the file were never completed."""
    with path.open("rb") as file:
        begin = file.read(MAX_HEADER_BYTES)
    return (MAGIC.startswith(begin) or begin.startswith(MAGIC)) and b"\n" not in begin[len(MAGIC) :]


def _close_in_children(file: IO[bytes]) -> None:
    """Close the file in forked child processes (such as data-loader workers), so that they hold no lock."""
    if hasattr(os, "register_at_fork"):
        reference = weakref.ref(file)

        def close() -> None:
            open_file = reference()
            if open_file is not None:
                open_file.close()

        os.register_at_fork(after_in_child=close)


def _parse_record(path: str | Path, body: bytes, end: int) -> Record:
    try:
        (length,) = struct.unpack("<I", body[:4])
        numbers = parse(body[4 : 4 + length])
        step, scalars = numbers["step"], numbers["scalars"]
        if not matches_type(step, int) or not matches_type(scalars, Mapping[str, float]):
            raise Unreadable(f"a record has the impossible step {step!r:.40} or numbers {scalars!r:.60}")
        with zipfile.ZipFile(io.BytesIO(body[4 + length :])) as archive:
            return Record(step, scalars, report_file.unpack_report(archive), end)
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}") from None
    except Exception as error:  # the readers raise various errors on a damaged file
        raise Unreadable(f"{path}: damaged ({type(error).__name__}: {error})") from error


def _read_header(file: IO[bytes], path: str | Path) -> tuple[str, int]:
    """Return (name of the run, offset of the first record)."""
    file.seek(0)
    begin = file.read(MAX_HEADER_BYTES)
    line, newline, _ = begin[len(MAGIC) :].partition(b"\n")
    try:
        if not begin.startswith(MAGIC) or not newline:
            raise ValueError("its first line is wrong or incomplete")
        header = parse(line)
        if header.get("schema") != SCHEMA or not matches_type(header["name"], str):
            raise ValueError(f"it has schema {header.get('schema')!r:.40}; this version reads schema {SCHEMA}")
    except Exception as error:  # a file of unknown origin can fail in any way
        raise Unreadable(f"{path} is not the history of a run: {error}") from None
    return header["name"], len(MAGIC) + len(line) + 1


def _lock_file(file: Any, path: str | Path) -> None:
    """Lock the file against writing by others until it is closed; the system releases it when the process ends.

    :raises UsageError: another process or journal holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # this system (Windows) has no such locks
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(
            f"{path} is open in another monitor, perhaps an earlier one in this session; call its close() first"
        ) from None
