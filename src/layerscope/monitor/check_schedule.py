"""Decides when a training monitor checks: every n steps, within a share of the training time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FIRST_CHECKS = 2  # made whatever they take: what changes between them is the least that a monitor can tell


class CheckSchedule:
    """The step of the next check, and the time spent on checks so far."""

    def __init__(self, every: int, budget: float | None, clock: Callable[[], float]) -> None:
        """
        :param every: number of steps between checks.
        :param budget: largest share of the training time to spend on checks; None for no limit.
        :param clock: function that returns the time in seconds, never decreasing.
        """
        self.every, self.budget = every, budget
        self.next_step = 0
        self.seconds = 0.0  # time spent on checks
        self.made = 0
        self.skipped = 0  # number of checks skipped because of the budget
        self._clock = clock
        self._start: float | None = None  # start of the training, by the clock
        self._last_cost = 0.0  # seconds of the last check

    def start(self) -> None:
        """Start the clock of the training, unless it is running."""
        self._start = self._clock() if self._start is None else self._start

    def is_due(self, step: int) -> bool:
        """Return whether a check is due at this step."""
        return step >= self.next_step

    def is_affordable(self) -> bool:
        """Return whether a check that takes as long as the last one would stay within the budget."""
        if self.budget is None or self._start is None or self.made < FIRST_CHECKS:
            return True
        training = self._clock() - self._start - self.seconds
        return self.seconds + self._last_cost <= self.budget * max(training, 0.0)

    def skip(self, step: int) -> None:
        """Skip a check that would exceed the budget; the next one is due ``every`` steps later."""
        self.skipped += 1
        self.advance(step)

    def advance(self, step: int) -> None:
        """Make the next check due ``every`` steps after this one."""
        self.next_step = step + self.every

    @contextmanager
    def timed(self, *, is_whole_check: bool = True) -> Iterator[None]:
        """Add the time spent inside to the time of checks.

        :param is_whole_check: also use it as the estimated time of the next check.
        """
        begin = self._clock()
        try:
            yield
        finally:
            cost = self._clock() - begin
            self.seconds += cost
            if is_whole_check:
                self.made += 1
                self._last_cost = cost

    def advice(self) -> str:
        """What a check takes, and how to change that, for the warning about the first check that is skipped."""
        return (
            f"a check takes {self._last_cost:.2g} s, and checks would take more than {self.budget:.0%} of the training "
            "time (budget); choose a larger every=, fewer layers=, background=True, a larger budget=, or budget=None"
        )

    @property
    def share(self) -> float:
        """Time spent on checks so far, as a share of the training time."""
        if self._start is None:
            return 0.0
        training = self._clock() - self._start - self.seconds
        return self.seconds / training if training > 0 else math.inf
