"""A check that runs in a thread while the training goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class BackgroundCheck:
    """At most one piece of work at a time, in a daemon thread."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._result: Any = None

    @property
    def is_running(self) -> bool:
        """Was work started whose result was not taken yet?"""
        return self._thread is not None

    @property
    def is_finished(self) -> bool:
        """Is there a result to take?"""
        return self._thread is not None and not self._thread.is_alive()

    def start(self, work: Callable[[], Any]) -> None:
        """Run ``work`` in a thread; what it raises becomes its result."""

        def run() -> None:
            try:
                self._result = work()
            except Exception as error:  # of another thread: reported when the loop comes by
                self._result = error

        self._thread = threading.Thread(target=run, name="layerscope", daemon=True)
        self._thread.start()

    def take(self) -> Any:
        """Wait for the result; it is handed out once."""
        if self._thread is not None:
            self._thread.join()
        result, self._thread, self._result = self._result, None, None
        return result
