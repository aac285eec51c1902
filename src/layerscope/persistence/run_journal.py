"""The history of a run that still goes on: one file to which each check is added as it is made.

A line of JSON (schema, name of the run), then a record per check: a mark, the length and the checksum of what follows,
the step and its numbers as JSON, the report as :mod:`~layerscope.persistence.report_file` packs it. A process
that is killed leaves at most one record unfinished at the end; it does not count, and is cut off when the run goes on.
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
from layerscope.persistence.report_json import SCHEMA, parse
from layerscope.validation import matches_type

if TYPE_CHECKING:
    from layerscope.records.report import Report

MAGIC = b"layerscope journal 1\n"
RECORD_MARK = b"STEP"
RECORD_HEADER = struct.Struct("<4sQI")  # mark, length, checksum
MAX_HEADER_BYTES = 10_000  # bytes of the first lines


class Record(NamedTuple):
    """One check."""

    step: int
    scalars: Mapping[str, float]
    report: Report
    end: int  # where the next one begins


class Journal:
    """A file that one process adds to; ``close()`` lets others write it."""

    def __init__(self, path: str | Path, name: str, *, resume: bool = False) -> None:
        """
        :raises UsageError: the file exists and ``resume`` was not asked for, or another process writes it.
        :raises Unreadable: it is no journal, or damaged.
        :raises OutputError: it cannot be written.
        """
        self.path, self.name = Path(path), name
        if self.path.is_dir() or "\0" in str(path):
            raise OutputError(f"cannot write {str(path)!r}: it is no file")
        exists = self.path.exists() and self.path.stat().st_size > 0
        if exists and resume and _has_unfinished_header(self.path):
            exists = False
        if exists and not resume:
            raise UsageError(f"{path} exists: resume=True goes on with it, another path begins a new history")
        try:
            self._file: IO[bytes] = self.path.open("r+b" if exists else "w+b")
            _close_in_children(self._file)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
        self.close = weakref.finalize(self, self._file.close)  # at the latest when nobody holds it any more
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
        """Can it be added to?"""
        return not self._file.closed

    def append(self, step: int, scalars: Mapping[str, float], report: Report) -> None:
        """Add a check; it is on the disk, or the file is as it was.

        :raises OutputError: there is no room for it.
        """
        numbers = json.dumps({"step": step, "scalars": dict(scalars)}, allow_nan=False).encode()
        body = struct.pack("<I", len(numbers)) + numbers + report_file.pack_report(report)
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
            except OSError:  # what is there is unfinished, and does not count
                pass
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from None


def is_journal(path: str | Path) -> bool:
    """Is it one? Told by content."""
    try:
        if not Path(path).is_file():  # to open a pipe is to wait for somebody
            return False
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def read_run_name(path: str | Path) -> str:
    """Of the run.

    :raises Unreadable: no journal.
    """
    with Path(path).open("rb") as file:
        return _read_header(file, path)[0]


def read_records(path: str | Path, start: int = 0) -> Iterator[Record]:
    """Every check that is whole, from the first or from where another one ended.

    :raises Unreadable: no journal; damaged before its end; steps that do not ascend.
    """
    size, step = Path(path).stat().st_size, -1
    with Path(path).open("rb") as file:
        offset = start or _read_header(file, path)[1]
        while offset + RECORD_HEADER.size <= size:
            file.seek(offset)
            mark, length, checksum = RECORD_HEADER.unpack(file.read(RECORD_HEADER.size))
            end = offset + RECORD_HEADER.size + length
            body = file.read(length) if mark == RECORD_MARK and end <= size else None
            if body is None or zlib.crc32(body) != checksum:
                if not _has_whole_record(file, offset + 1, size):
                    return  # unfinished: it was being written, or not all of it reached the disk
                raise Unreadable(f"{path} is damaged at byte {offset:,}; what comes before it is whole")
            record = _parse_record(path, body, end)
            if record.step <= step:
                raise Unreadable(f"{path}: step {record.step} after step {step}")
            step, offset = record.step, end
            yield record


def _has_whole_record(file: IO[bytes], start: int, size: int) -> bool:
    """Is there a whole record behind what is damaged?"""
    file.seek(start)
    tail = file.read()
    mark = tail.find(RECORD_MARK)
    while mark >= 0:
        if mark + RECORD_HEADER.size <= len(tail):
            _, length, checksum = RECORD_HEADER.unpack(tail[mark : mark + RECORD_HEADER.size])
            body = tail[mark + RECORD_HEADER.size : mark + RECORD_HEADER.size + length]
            if len(body) == length and length and zlib.crc32(body) == checksum:
                return True
        mark = tail.find(RECORD_MARK, mark + 1)
    return False


def _has_unfinished_header(path: Path) -> bool:
    """A file whose first line was never finished."""
    with path.open("rb") as file:
        begin = file.read(MAX_HEADER_BYTES)
    return (MAGIC.startswith(begin) or begin.startswith(MAGIC)) and b"\n" not in begin[len(MAGIC) :]


def _close_in_children(file: IO[bytes]) -> None:
    """A forked child, a loader's worker say, holds no lock."""
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
            raise Unreadable(f"step {step!r:.40} and its numbers {scalars!r:.60}")
        with zipfile.ZipFile(io.BytesIO(body[4 + length :])) as archive:
            return Record(step, scalars, report_file.unpack_report(archive), end)
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}") from None
    except Exception as error:  # whatever a damaged file makes the readers stumble over
        raise Unreadable(f"{path}: damaged: {type(error).__name__}: {error}") from error


def _read_header(file: IO[bytes], path: str | Path) -> tuple[str, int]:
    """(name of the run, where the records begin)."""
    file.seek(0)
    begin = file.read(MAX_HEADER_BYTES)
    line, newline, _ = begin[len(MAGIC) :].partition(b"\n")
    try:
        if not begin.startswith(MAGIC) or not newline:
            raise ValueError("it begins otherwise")
        header = parse(line)
        if header.get("schema") != SCHEMA or not matches_type(header["name"], str):
            raise ValueError(f"schema {header.get('schema')!r:.40}")
    except Exception as error:  # whatever is wrong with a stranger's file
        raise Unreadable(f"{path} is no history of a run: {error}") from None
    return header["name"], len(MAGIC) + len(line) + 1


def _lock_file(file: Any, path: str | Path) -> None:
    """Nobody else may write it until it is closed; released by the system when the process ends.

    :raises UsageError: somebody does.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(
            f"{path} is being written by another monitor, perhaps an earlier one of yours: close() it"
        ) from None
