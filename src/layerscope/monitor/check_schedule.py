"""When a training monitor checks: every so many steps, within a share of the training time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CheckSchedule:
    """The next step that is due, and what checks have cost so far."""

    def __init__(self, every: int, budget: float | None, clock: Callable[[], float]) -> None:
        """
        :param every: steps from one check to the next.
        :param budget: share of the training time that checks may take; None for no limit.
        :param clock: seconds, ascending.
        """
        self.every, self.budget = every, budget
        self.next_step = 0
        self.seconds = 0.0  # that checks took
        self.skipped = 0  # checks that the budget did not allow
        self._clock = clock
        self._start: float | None = None  # of the training, by the clock
        self._last_cost = 0.0  # seconds of the last check

    def start(self) -> None:
        """Start the clock of the training, if it does not run yet."""
        self._start = self._clock() if self._start is None else self._start

    def is_due(self, step: int) -> bool:
        """Is it time for a check?"""
        return step >= self.next_step

    def is_affordable(self) -> bool:
        """Would another check like the last one stay within the budget?"""
        if self.budget is None or self._last_cost == 0.0 or self._start is None:
            return True
        training = self._clock() - self._start - self.seconds
        return self.seconds + self._last_cost <= self.budget * max(training, 0.0)

    def skip(self, step: int) -> None:
        """Put a check that is too expensive now off to the next step that is due."""
        self.skipped += 1
        self.advance(step)

    def advance(self, step: int) -> None:
        """After a check at this step the next one is due ``every`` steps later."""
        self.next_step = step + self.every

    @contextmanager
    def timed(self, *, is_whole_check: bool = True) -> Iterator[None]:
        """Count the seconds inside as spent on checks; of a whole check, as the cost of the next one too."""
        begin = self._clock()
        try:
            yield
        finally:
            cost = self._clock() - begin
            self.seconds += cost
            if is_whole_check:
                self._last_cost = cost

    @property
    def share(self) -> float:
        """Share of the training time that checks took so far."""
        if self._start is None:
            return 0.0
        training = self._clock() - self._start - self.seconds
        return self.seconds / training if training > 0 else math.inf
