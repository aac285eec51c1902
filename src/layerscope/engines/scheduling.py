"""Find an engine by name, and decide the order of the jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from layerscope import registry
from layerscope.records.layers import Job

Run = Callable[..., Iterator[tuple[Job, Any]]]


def engine_named(name: str) -> Run:
    """Return the function ``run`` of an engine.

    :raises UnknownName: no engine has this name.
    """
    run: Run = registry.find("engines", name).target.run
    return run


def biggest_first(jobs: Iterable[Job]) -> list[Job]:
    """Sort jobs by cost, largest first, so that short jobs fill the gaps at the end."""
    return sorted(jobs, key=lambda job: -job.cost)


def first_that_fits(waiting: Sequence[Job], free_memory: int, alone: bool) -> int | None:
    """Return the index of the first job that fits into free memory, or None.

    :param alone: nothing else is running; if no job fits, the first one is run anyway.
    """
    for i, job in enumerate(waiting):
        if job.memory <= free_memory:
            return i
    return 0 if alone and waiting else None
