"""Measure one layer after the other in the calling thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from threadpoolctl import threadpool_limits

from layerscope.engines.scheduling import biggest_first
from layerscope.records.layers import Job


def run(fn: Callable[[Job], Any], jobs: Iterable[Job], *, workers: int, memory: int) -> Iterator[tuple[Job, Any]]:
    """Run the jobs in the calling thread; ``workers`` and ``memory`` are ignored."""
    with threadpool_limits(1):
        for job in biggest_first(jobs):
            try:
                result = fn(job)
            except Exception as error:
                result = error
            yield job, result
