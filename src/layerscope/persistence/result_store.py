"""Results of long work by key, in one file: an interrupted call with the same arguments goes on from it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from layerscope.errors import Unreadable, UsageError
from layerscope.persistence.atomic_files import write_atomically


class ResultStore:
    """A JSON file that appears whole or not at all: ``{"of": identity, "done": {key: result}}``."""

    def __init__(self, path: str | Path, identity: str, *, contents: str, mismatch: str, interval: float = 0.0) -> None:
        """
        :param identity: of the work; a file of another work is refused.
        :param contents: what it holds, for messages: "grid", "runs".
        :param mismatch: what a file of another identity holds; ``{identity}`` in it stands for what the file states.
        :param interval: seconds between two writes; 0 writes each result at once.
        :raises Unreadable: the file is no such store.
        :raises UsageError: it is that of another work.
        """
        self.path, self.identity, self._interval = Path(path), identity, interval
        self._results: dict[str, Any] = {}
        self._last_write = time.perf_counter()
        if not self.path.exists():
            return
        try:
            stored = json.loads(self.path.read_text("utf-8"))
            stored_identity, results = stored["of"], {str(k): dict(v) for k, v in stored["done"].items()}
        except Exception as error:  # whatever is wrong with a file of unknown origin
            raise Unreadable(f"{path}: no stored {contents}: {type(error).__name__}: {error}") from None
        if stored_identity != identity:
            stated = mismatch.replace("{identity}", f"{stored_identity!r:.80}")
            raise UsageError(f"{path} holds {stated}; choose a new file")
        self._results = results

    def get(self, key: str) -> Any | None:
        """The result of a key, or None."""
        return self._results.get(key)

    def put(self, key: str, result: dict[str, Any]) -> None:
        """Store a result of plain JSON types."""
        self._results[key] = result
        if time.perf_counter() - self._last_write >= self._interval:
            self.flush()

    def flush(self) -> None:
        """Write the file."""
        write_atomically(self.path, json.dumps({"of": self.identity, "done": self._results}).encode())
        self._last_write = time.perf_counter()
