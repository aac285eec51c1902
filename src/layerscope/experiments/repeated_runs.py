"""The independent runs of an experiment: by any engine, what is done kept in a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.engines import machine, scheduling
from layerscope.experiments.outcome import Claim, Outcome, Table
from layerscope.live.torch_models import single_threaded
from layerscope.persistence.result_store import ResultStore
from layerscope.records.sources import SourceSpec
from layerscope.views.plots.marks import picture_from_json, picture_to_json

Progress = Callable[[int, int], Any]  # (runs done, of how many)
Numbers = dict[str, Any]  # of one run, as plain JSON types


@dataclass(frozen=True)
class Job:
    """One run, for an engine."""

    spec: SourceSpec
    case: Numbers
    cost: float = 1.0
    memory: int = 0


@dataclass(frozen=True)
class Work:
    """What an engine runs."""

    measure: Callable[..., Numbers]
    data: Any

    def __call__(self, job: Job) -> Numbers:
        with contextlib.suppress(ImportError):
            import torch  # noqa: F401 - so that it is there to be told

        with single_threaded():  # in a process of its own too: sums come out alike whatever runs them
            return self.measure(self.data, **job.case)


def run(
    measure: Callable[..., Numbers], data: Any, cases: Sequence[Numbers], *, engine: str | None = None,
    store: str | Path | None = None, progress: Progress | None = None,
) -> list[Numbers]:  # fmt: skip
    """``measure(data, **case)`` of each case, in their order.

    :param engine: "threads", "processes", …; one after the other without one.
    :param store: a JSON file with what is done: an interrupted call goes on from it.
    :raises UsageError: a store of another experiment.
    """
    run_store = _RunStore(store, measure, data) if store is not None else None
    result_by_number = {
        number: result for number, case in enumerate(cases) if run_store and (result := run_store.get(case)) is not None
    }
    pending = [number for number in range(len(cases)) if number not in result_by_number]
    work, spec = Work(measure, data), SourceSpec(measure, "experiment", True, "experiment")
    jobs = [Job(spec, cases[number]) for number in pending]
    number_by_job = {id(job): number for job, number in zip(jobs, pending, strict=True)}
    workers = machine.available_cores()
    results: Any = (
        scheduling.engine_named(engine)(work, jobs, workers=workers, memory=machine.available_memory())
        if engine is not None
        else ((job, work(job)) for job in jobs)
    )
    with single_threaded():
        for job, result in results:
            if not isinstance(result, dict):
                raise result
            number = number_by_job[id(job)]
            result_by_number[number] = result
            if run_store is not None:
                run_store.put(cases[number], result)
            if progress is not None:
                progress(len(result_by_number), len(cases))
    return [result_by_number[number] for number in range(len(cases))]


def to_json_parts(
    claims: Sequence[Claim], numbers: Mapping[str, float], tables: Sequence[Table], plots: Sequence[Any]
) -> Numbers:
    """Parts of an outcome as plain JSON types."""
    return {
        "claims": [[c.figure, c.says, c.measured, c.holds] for c in claims],
        "numbers": {name: None if math.isnan(value) else value for name, value in numbers.items()},
        "tables": [[t.title, list(t.columns), [list(row) for row in t.rows]] for t in tables],
        "pictures": [picture_to_json(picture) for picture in plots],
    }


def combine_parts(name: str, about: str, seed: int, parts: Sequence[Numbers], seconds: float) -> Outcome:
    """The outcome of such parts."""
    claims = tuple(Claim(*claim) for part in parts for claim in part["claims"])
    numbers = {name: math.nan if x is None else x for part in parts for name, x in part["numbers"].items()}
    tables = tuple(Table(title, tuple(columns), tuple(tuple(row) for row in rows))
                   for part in parts for title, columns, rows in part["tables"])  # fmt: skip
    pictures = tuple(picture_from_json(picture) for part in parts for picture in part["pictures"])
    return Outcome(name, about, seed, claims, numbers, seconds, tables, pictures)


class _RunStore:
    """Results by data and case."""

    def __init__(self, path: str | Path, measure: Any, data: Any) -> None:
        self._results = ResultStore(
            path, f"{measure.__module__}.{measure.__qualname__}", contents="runs",
            mismatch="runs of another experiment, {identity}",
        )  # fmt: skip
        self._data = hashlib.sha256(pickle.dumps(data)).hexdigest()[:16]

    def get(self, case: Numbers) -> Numbers | None:
        """The stored result of a case, if there is one."""
        return self._results.get(self._key(case))

    def put(self, case: Numbers, result: Numbers) -> None:
        """Store the result of a case."""
        self._results.put(self._key(case), result)

    def _key(self, case: Numbers) -> str:
        return f"{self._data} {json.dumps(case, sort_keys=True)}"
