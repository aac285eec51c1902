"""How jobs are run: one engine per file, a module with ``run(fn, jobs, *, workers, memory)``.

``run`` yields ``(job, result)`` in any order, one BLAS thread per worker, and lets no exception of ``fn`` end it: what
``fn`` raises is yielded in place of the result. Closing the generator, or Ctrl-C, leaves no work behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from layerscope import registry
from layerscope.types import Job

Run = Callable[..., Iterator[tuple[Job, Any]]]


def get(name: str) -> Run:
    """The ``run`` of an engine."""
    run: Run = registry.find("engines", name).target.run
    return run


def biggest_first(jobs: Iterable[Job]) -> list[Job]:
    """Jobs by falling cost: the long ones start early, the short ones fill the gaps."""
    return sorted(jobs, key=lambda job: -job.cost)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that can be taken without swapping: the system's and the control group's word, whichever is less."""
    amounts = [1 << 50]
    free = [line for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    amounts += [int(line.split()[1]) << 10 for line in free]
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{x}") for x in ("max", "current"))
    if limit and used and limit[0].isdigit():
        amounts.append(int(limit[0]) - int(used[0]))
    return max(0, min(amounts))


def first_that_fits(waiting: Sequence[Job], room: int, alone: bool) -> int | None:
    """Index of the first job whose memory fits, the first of all when nothing else runs, else None."""
    for i, job in enumerate(waiting):
        if job.memory <= room:
            return i
    return 0 if alone and waiting else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("ascii").splitlines()
    except OSError:
        return []
