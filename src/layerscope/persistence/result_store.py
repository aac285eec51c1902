"""Store finished results in a file, so that an interrupted call with the same arguments continues from it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from layerscope.errors import Unreadable, UsageError
from layerscope.persistence.atomic_files import write_atomically
from layerscope.persistence.regular_files import open_regular


class ResultStore:
    """Results by key in a JSON file, written atomically: ``{"of": identity, "done": {key: result}}``."""

    def __init__(self, path: str | Path, identity: str, *, contents: str, mismatch: str, interval: float = 0.0) -> None:
        """Open a store and read the results that the file already has.

        :param identity: name of the computation; a file with another identity is refused.
        :param contents: noun for the results in messages, such as "grid" or "runs".
        :param mismatch: description of a file with another identity, for the error message; ``{identity}`` in it is
            replaced by that identity.
        :param interval: seconds between two writes; 0 writes each result immediately.
        :raises Unreadable: the file exists but is not a result store.
        :raises UsageError: the file belongs to another computation.
        """
        self.path, self.identity, self._interval = Path(path), identity, interval
        self._results: dict[str, Any] = {}
        self._last_write = time.perf_counter()
        if not self.path.exists():
            return
        try:
            with open_regular(path) as file:
                stored = json.loads(file.read().decode("utf-8"))
            stored_identity, results = stored["of"], {str(k): dict(v) for k, v in stored["done"].items()}
        except Exception as error:  # a file of unknown origin can fail in any way
            raise Unreadable(
                f"{path}: not a file of stored {contents} ({type(error).__name__}: {error}); choose a new file"
            ) from None
        if stored_identity != identity:
            stated = mismatch.replace("{identity}", f"{stored_identity!r:.80}")
            raise UsageError(f"{path} holds {stated}; choose a new file")
        self._results = results

    def get(self, key: str) -> Any | None:
        """Return the result of a key, or None if it is not stored."""
        return self._results.get(key)

    def put(self, key: str, result: dict[str, Any]) -> None:
        """Store a result that consists of plain JSON types."""
        self._results[key] = result
        if time.perf_counter() - self._last_write >= self._interval:
            self.flush()

    def flush(self) -> None:
        """Write all results to the file now."""
        write_atomically(self.path, json.dumps({"of": self.identity, "done": self._results}).encode())
        self._last_write = time.perf_counter()
