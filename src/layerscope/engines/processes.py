"""Measure layers in parallel in separate processes; the model must be a file or folder, not a live object."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from threadpoolctl import threadpool_limits

from layerscope.engines.machine import available_cores
from layerscope.engines.scheduling import biggest_first, first_that_fits
from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.layers import Job


def run(fn: Callable[[Job], Any], jobs: Iterable[Job], *, workers: int, memory: int) -> Iterator[tuple[Job, Any]]:
    """Run jobs in parallel, largest first, within the limits ``workers`` and ``memory`` (bytes).

    If a worker is killed, for example for lack of memory, the pool breaks. The jobs of the pool then run again one by
    one, and a job that kills its worker again yields an error.

    :raises UsageError: the model is a live object, which cannot be sent to another process.
    """
    workers = min(workers, available_cores())  # more processes than cores would only cost memory
    waiting = biggest_first(jobs)
    unportable = next((job for job in waiting if not job.spec.portable), None)
    if unportable is not None:
        kind = type(unportable.spec.target).__name__
        raise UsageError(
            f'engine="processes": a {kind} in memory cannot be sent to other processes; '
            'save it to a file first, or use engine="threads"'
        )
    suspects: list[Job] = []
    while waiting:
        for job, result in _run_in_pool(fn, waiting, workers, memory):
            if isinstance(result, BrokenProcessPool):
                suspects.append(job)
            else:
                yield job, result
        while suspects:
            ((job, result),) = list(_run_in_pool(fn, [suspects.pop()], 1, memory))
            yield job, _killed_worker_error() if isinstance(result, BrokenProcessPool) else result


def _run_in_pool(fn: Callable[[Job], Any], waiting: list[Job], workers: int, memory: int) -> Iterator[tuple[Job, Any]]:
    """Run the jobs in ``waiting`` until none is left or the pool breaks; jobs not started stay in the list."""
    running: dict[Future[Any], Job] = {}
    free_memory, broken = memory, False
    earlier_children = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)
    try:
        while running or (waiting and not broken):
            while len(running) < workers and not broken:
                index = first_that_fits(waiting, free_memory, alone=not running)
                if index is None:
                    break
                job = waiting.pop(index)
                free_memory -= job.memory
                running[pool.submit(_call_single_threaded, fn, job)] = job
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                free_memory += job.memory
                error = future.exception()
                broken = broken or isinstance(error, BrokenProcessPool)
                yield job, error if error is not None else future.result()
    finally:
        children = set(multiprocessing.active_children()) - earlier_children
        pool.shutdown(wait=False, cancel_futures=True)
        if running:  # interrupted: results of running jobs are no longer needed
            for child in children:
                child.terminate()
        for child in children:
            child.join()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers


def _call_single_threaded(fn: Callable[[Job], Any], job: Job) -> Any:
    with threadpool_limits(1):
        try:
            return fn(job)
        except Exception as error:
            return error


def _killed_worker_error() -> LayerscopeError:
    return LayerscopeError(
        "its worker process died twice (out of memory, or the script has no `if __name__ == '__main__'` guard)"
    )
