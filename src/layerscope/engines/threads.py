"""Many layers at once in threads, one BLAS thread each: LAPACK works outside Python's lock."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from threadpoolctl import threadpool_limits

from layerscope.engines.scheduling import biggest_first, first_that_fits
from layerscope.records.layers import Job


def run(fn: Callable[[Job], Any], jobs: Iterable[Job], *, workers: int, memory: int) -> Iterator[tuple[Job, Any]]:
    """As many jobs at once as ``workers`` and ``memory`` bytes allow, biggest first.

    The threads are daemons: a layer that is inside LAPACK when the run is interrupted does not hold up the exit.
    """
    waiting, running, room = biggest_first(jobs), 0, memory
    todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Job, Any]] = queue.SimpleQueue()
    threads = [threading.Thread(target=_work, args=(fn, todo, done), daemon=True) for _ in range(workers)]
    with threadpool_limits(1):
        for thread in threads:
            thread.start()
        try:
            while waiting or running:
                while running < workers:
                    chosen = first_that_fits(waiting, room, alone=running == 0)
                    if chosen is None:
                        break
                    job = waiting.pop(chosen)
                    running, room = running + 1, room - job.memory
                    todo.put(job)
                job, result = done.get()
                running, room = running - 1, room + job.memory
                yield job, result
        finally:
            for _ in threads:
                todo.put(None)
            if not running:  # none of them is inside LAPACK, or torch, any more
                for thread in threads:
                    thread.join()


def _work(
    fn: Callable[[Job], Any], todo: queue.SimpleQueue[Job | None], done: queue.SimpleQueue[tuple[Job, Any]]
) -> None:
    while (job := todo.get()) is not None:
        try:
            result = fn(job)
        except Exception as error:
            result = error
        done.put((job, result))
