"""The former monitor of the conditioning lens, as a thin layer over :class:`~layerscope.Monitor`."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from layerscope.errors import UsageError
from layerscope.monitor.monitor_options import finite_scalars
from layerscope.monitor.training_monitor import Monitor
from layerscope.records.report import Report


class ConditioningMonitor(Monitor):
    """Measures the conditioning of a model every n steps of the loop that trains it, on data that stay the same.

    :class:`~layerscope.Monitor` with ``lenses="conditioning"`` does the same and more; this class stays for one
    release. Its steps return reports instead of checks, it has no budget, and as a context manager it writes its whole
    history to ``path`` at the end, also when the loop is interrupted.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        loss: Any = "cross_entropy",
        *,
        every: int = 100,
        start: int = 0,
        name: str = "run",
        path: str | Path | None = None,
        **options: Any,
    ) -> None:
        """
        :param data: one pair (x, y) or a list of them, gone through at every measurement; a few hundred examples.
        :param every: steps from one measurement to the next; the first is at ``start``.
        :param options: what :func:`~layerscope.conditioning` takes. No law is fitted to the weights unless ``fits``
            asks for it.
        :raises UsageError: a step below 1, or data that can be gone through only once.
        """
        if not isinstance(every, int) or not isinstance(start, int) or every < 1 or start < 0:
            raise UsageError(f"every must be at least 1 and start at least 0, not {every!r} and {start!r}")
        options = {"fits": (), "jobs": 1, **options}
        super().__init__(
            model, every=every, lenses="conditioning", data=data, loss=loss, budget=None, name=name, **options
        )
        self._schedule.next_step = start
        self._save_path = path

    def step(self, number: int | None = None, **scalars: float) -> Report | None:  # type: ignore[override]
        """One step of the loop is done; the report where it was measured.

        :param number: of the step, from 0; without it steps are counted.
        :param scalars: numbers that belong to it: loss=…, accuracy=…
        :raises UsageError: a number that does not ascend.
        """
        check = self.advance(finite_scalars(scalars), number)
        return None if check is None else check.report

    def measure(self, step: int, **scalars: float) -> Report | None:
        """Measure now, as this step; None where it failed, of which a warning says why."""
        check = self.check(step, scalars)
        return None if check is None else check.report

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._save_path is not None and self._last_checked >= 0:
            self.history.save(self._save_path)
        super().__exit__(kind, error, trace)
