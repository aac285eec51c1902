"""Runs a check in a thread while training continues."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class BackgroundCheck:
    """Runs at most one function at a time in a daemon thread."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._result: Any = None

    @property
    def is_running(self) -> bool:
        """Whether a function was started and its result was not taken yet."""
        return self._thread is not None

    @property
    def is_finished(self) -> bool:
        """Whether a result is ready to take."""
        return self._thread is not None and not self._thread.is_alive()

    def start(self, work: Callable[[], Any]) -> None:
        """Run ``work`` in a thread. An exception that it raises becomes its result."""

        def run() -> None:
            try:
                self._result = work()
            except Exception as error:  # reported in the training loop when the result is taken
                self._result = error

        self._thread = threading.Thread(target=run, name="layerscope", daemon=True)
        self._thread.start()

    def take(self) -> Any:
        """Wait for the result and return it, once."""
        if self._thread is not None:
            self._thread.join()
        result, self._thread, self._result = self._result, None, None
        return result
