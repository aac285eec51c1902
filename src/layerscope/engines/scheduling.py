"""Which engine runs the jobs, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from layerscope import registry
from layerscope.records.layers import Job

Run = Callable[..., Iterator[tuple[Job, Any]]]


def engine_named(name: str) -> Run:
    """The ``run`` of an engine."""
    run: Run = registry.find("engines", name).target.run
    return run


def biggest_first(jobs: Iterable[Job]) -> list[Job]:
    """Jobs by falling cost: the long ones start early, the short ones fill the gaps."""
    return sorted(jobs, key=lambda job: -job.cost)


def first_that_fits(waiting: Sequence[Job], free_memory: int, alone: bool) -> int | None:
    """Index of the first job whose memory fits, the first of all when nothing else runs, else None."""
    for i, job in enumerate(waiting):
        if job.memory <= free_memory:
            return i
    return 0 if alone and waiting else None
