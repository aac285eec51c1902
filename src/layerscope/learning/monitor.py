"""Conditioning over the steps of a training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from layerscope.errors import UsageError
from layerscope.history import History
from layerscope.learning.conditioning import conditioning
from layerscope.report import Report


class ConditioningMonitor:
    """Measures a model every n steps of the loop that trains it, on data that stay the same.

    ::

        monitor = layerscope.ConditioningMonitor(model, (x, y), every=100, lr=0.1)
        for step, (x, y) in enumerate(loader):
            ...
            optimizer.step()
            monitor.step(loss=loss.item())
        monitor.history.save("run.layerscope")

    As a context manager it writes its history to ``path`` at the end, also when the loop is interrupted.
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
        if isinstance(data, Iterable) and iter(data) is data:  # type: ignore[redundant-expr,unused-ignore]
            raise UsageError("data are an iterator, which can be gone through once: give a list or a loader")
        self.model, self.data, self.loss = model, data, loss
        self.every, self.name, self.path = every, name, path
        self.options = {"fits": (), "jobs": 1, **options}
        self.seconds = 0.0  # that measuring took
        self._next, self._count = start, 0
        self._steps: list[int] = []
        self._reports: list[Report] = []
        self._scalars: list[dict[str, float]] = []

    def step(self, number: int | None = None, **scalars: float) -> Report | None:
        """One step of the loop is done; the report where it was measured.

        :param number: of the step, from 0; without it steps are counted.
        :param scalars: numbers that belong to it: loss=…, accuracy=…
        :raises UsageError: a number that does not ascend.
        """
        finite(scalars)
        now = self._count if number is None else int(number)
        if number is not None and self._steps and now <= self._steps[-1]:
            raise UsageError(f"step {now} after step {self._steps[-1]}: steps ascend")
        self._count = now + 1
        if now < self._next:
            return None
        self._next = now + self.every
        return self.measure(now, **scalars)

    def measure(self, step: int, **scalars: float) -> Report:
        """Measure now, as this step."""
        if self._steps and step <= self._steps[-1]:
            raise UsageError(f"step {step} after step {self._steps[-1]}: steps ascend")
        numbers = finite(scalars)
        clock = time.perf_counter()
        since = self._reports[0] if self._reports else None
        report = conditioning(self.model, self.data, self.loss, since=since, **self.options)
        self._steps.append(step)
        self._reports.append(report)
        self._scalars.append(numbers)
        self._count = max(self._count, step + 1)
        self.seconds += time.perf_counter() - clock
        return report

    @property
    def history(self) -> History:
        """What was measured so far.

        :raises UsageError: nothing was.
        """
        if not self._steps:
            raise UsageError("nothing was measured yet: call step() in the loop")
        return History(self.name, tuple(self._steps), tuple(self._reports), tuple(self._scalars))

    def __enter__(self) -> ConditioningMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path is not None and self._steps:
            self.history.save(self.path)


def finite(scalars: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite.

    :raises UsageError: one is no number.
    """
    try:
        return {str(name): float(value) for name, value in scalars.items() if math.isfinite(float(value))}
    except (TypeError, ValueError) as error:
        raise UsageError(f"scalars of a step are numbers: {error}") from None
