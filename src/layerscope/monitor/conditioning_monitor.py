"""Deprecated monitor for the conditioning lens, a thin wrapper around :class:`~layerscope.Monitor`."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from layerscope.errors import UsageError
from layerscope.monitor.monitor_options import finite_scalars
from layerscope.monitor.training_monitor import Monitor
from layerscope.records.report import Report


class ConditioningMonitor(Monitor):
    """Measures the conditioning of a model every n training steps, on fixed data.

    Use :class:`~layerscope.Monitor` with ``lenses="conditioning"`` instead; this class remains for one release. In
    contrast to ``Monitor``, ``step`` returns a report instead of a check, and there is no time budget. As a context
    manager it writes the whole history to ``path`` on exit, even if the loop is interrupted.
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
        :param data: a pair (x, y) or a list of pairs, a few hundred examples. Each measurement uses all of them.
        :param loss: loss, as for :func:`~layerscope.conditioning`.
        :param every: number of steps between measurements.
        :param start: step of the first measurement.
        :param name: name of the run.
        :param path: file for the history; None to write none.
        :param options: options of :func:`~layerscope.conditioning`. No law is fitted to the spectra of the weights
            unless ``fits`` requests it.
        :raises UsageError: ``every`` is below 1, ``start`` is below 0, or the data can be read only once.
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
        """Register a finished training step; return a report if it was measured, else None.

        :param number: number of the step, from 0; steps are counted if it is omitted.
        :param scalars: numbers to store with the step, e.g. loss=…, accuracy=…
        :raises UsageError: the number is not larger than that of the step before.
        """
        check = self.advance(finite_scalars(scalars), number)
        return None if check is None else check.report

    def measure(self, step: int, **scalars: float) -> Report | None:
        """Measure now and store the report under this step; if this fails, warn and return None."""
        check = self.check(step, scalars)
        return None if check is None else check.report

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._save_path is not None and self._last_checked >= 0:
            self.history.save(self._save_path)
        super().__exit__(kind, error, trace)
