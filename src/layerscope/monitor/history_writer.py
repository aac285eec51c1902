"""Adds checks to the history of a run; a check that cannot be written waits for room on the disk."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

from layerscope.errors import OutputError
from layerscope.persistence import run_journal
from layerscope.records.report import Report

MAX_WAITING = 16  # checks that wait for room on the disk


class HistoryWriter:
    """The journal of a run, and the checks that are not in it yet."""

    def __init__(self, path: str | Path | None, name: str, *, resume: bool) -> None:
        """
        :param path: of the journal; a temporary file, which goes with this object, where none is given.
        """
        self.path = _temporary_file(self) if path is None else Path(path)
        self.journal = run_journal.Journal(self.path, name, resume=resume)
        self._waiting: list[tuple[int, Mapping[str, float], Report]] = []

    def add(self, step: int, scalars: Mapping[str, float], report: Report) -> list[str]:
        """Add a check; warnings, where it could not be written."""
        self._waiting.append((step, scalars, report))
        return self.write_waiting()

    def write_waiting(self) -> list[str]:
        """Write what waits; what cannot be written goes on waiting, and the run goes on."""
        try:
            while self._waiting:
                self.journal.append(*self._waiting[0])
                self._waiting.pop(0)
        except OutputError as error:
            is_lost = len(self._waiting) > MAX_WAITING
            self._waiting = self._waiting[-MAX_WAITING:]
            return [f"{error}: the run goes on; {'the oldest checks are lost' if is_lost else 'checks wait for room'}"]
        return []

    @property
    def waiting(self) -> int:
        """Checks that are not written yet."""
        return len(self._waiting)

    def reopen(self) -> None:
        """Go on with the journal after it was closed.

        :raises UsageError: somebody else writes it.
        """
        if not self.journal.open:
            self.journal = run_journal.Journal(self.journal.path, self.journal.name, resume=True)


def _temporary_file(owner: object) -> Path:
    """An empty file that goes with its owner, and not with a child of its process."""
    handle, path = tempfile.mkstemp(".layerscope")
    os.close(handle)
    weakref.finalize(owner, _remove_in_process, path, os.getpid())
    return Path(path)


def _remove_in_process(path: str, process: int) -> None:
    if os.getpid() == process:
        Path(path).unlink(missing_ok=True)
