"""Measure layers in parallel in threads with one BLAS thread each; LAPACK runs without the GIL."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from threadpoolctl import threadpool_limits

from layerscope.engines.scheduling import biggest_first, first_that_fits
from layerscope.records.layers import Job


def run(fn: Callable[[Job], Any], jobs: Iterable[Job], *, workers: int, memory: int) -> Iterator[tuple[Job, Any]]:
    """Run jobs in parallel, largest first, within the limits ``workers`` and ``memory`` (bytes).

    The threads are daemons, so that a layer being computed in LAPACK does not delay the exit after an interrupt.
    """
    waiting, running, free_memory = biggest_first(jobs), 0, memory
    queued: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    finished: queue.SimpleQueue[tuple[Job, Any]] = queue.SimpleQueue()
    threads = [threading.Thread(target=_run_worker, args=(fn, queued, finished), daemon=True) for _ in range(workers)]
    with threadpool_limits(1):
        for thread in threads:
            thread.start()
        try:
            while waiting or running:
                while running < workers:
                    index = first_that_fits(waiting, free_memory, alone=running == 0)
                    if index is None:
                        break
                    job = waiting.pop(index)
                    running, free_memory = running + 1, free_memory - job.memory
                    queued.put(job)
                job, result = finished.get()
                running, free_memory = running - 1, free_memory + job.memory
                yield job, result
        finally:
            for _ in threads:
                queued.put(None)
            if not running:  # no thread is inside LAPACK or torch, so joining does not block
                for thread in threads:
                    thread.join()


def _run_worker(
    fn: Callable[[Job], Any], queued: queue.SimpleQueue[Job | None], finished: queue.SimpleQueue[tuple[Job, Any]]
) -> None:
    while (job := queued.get()) is not None:
        try:
            result = fn(job)
        except Exception as error:
            result = error
        finished.put((job, result))
