"""Appends checks to the history of a run; checks that cannot be written (disk full) stay in memory for a retry."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

from layerscope.errors import OutputError
from layerscope.persistence import run_journal
from layerscope.records.report import Report

MAX_WAITING = 16  # largest number of unwritten checks in memory


class HistoryWriter:
    """The journal file of a run, and the checks that are not in it yet."""

    def __init__(self, path: str | Path | None, name: str, *, resume: bool) -> None:
        """
        :param path: path of the journal; None for a temporary file that is deleted with this object.
        :param name: name of the run.
        :param resume: continue an existing journal.
        """
        self.path = _temporary_file(self) if path is None else Path(path)
        self.journal = run_journal.Journal(self.path, name, resume=resume)
        self._waiting: list[tuple[int, Mapping[str, float], Report]] = []

    def add(self, step: int, scalars: Mapping[str, float], report: Report) -> list[str]:
        """Add a check; return warnings if it could not be written."""
        self._waiting.append((step, scalars, report))
        return self.write_waiting()

    def write_waiting(self) -> list[str]:
        """Write the waiting checks; keep those that cannot be written, and return warnings about them."""
        try:
            while self._waiting:
                self.journal.append(*self._waiting[0])
                self._waiting.pop(0)
        except OutputError as error:
            is_lost = len(self._waiting) > MAX_WAITING
            self._waiting = self._waiting[-MAX_WAITING:]
            state = "the oldest unwritten checks are lost" if is_lost else "unwritten checks are retried later"
            return [f"{error}: training continues; {state}"]
        return []

    @property
    def waiting(self) -> int:
        """Number of checks that are not written yet."""
        return len(self._waiting)

    def reopen(self) -> None:
        """Continue the journal after it was closed.

        :raises UsageError: another process writes to it.
        """
        if not self.journal.open:
            self.journal = run_journal.Journal(self.journal.path, self.journal.name, resume=True)


def _temporary_file(owner: object) -> Path:
    """Create an empty file that is deleted with its owner, but not by child processes."""
    handle, path = tempfile.mkstemp(".layerscope")
    os.close(handle)
    weakref.finalize(owner, _remove_in_process, path, os.getpid())
    return Path(path)


def _remove_in_process(path: str, process: int) -> None:
    if os.getpid() == process:
        Path(path).unlink(missing_ok=True)
