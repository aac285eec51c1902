"""Run the independent cases of an experiment on any engine, and store finished results in a file."""

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

Progress = Callable[[int, int], Any]  # called with (finished runs, total runs)
Numbers = dict[str, Any]  # result of one run, as plain JSON types


@dataclass(frozen=True)
class Job:
    """One run of an experiment, in the form that engines take."""

    spec: SourceSpec
    case: Numbers
    cost: float = 1.0
    memory: int = 0


@dataclass(frozen=True)
class Work:
    """The function that an engine calls for each job."""

    measure: Callable[..., Numbers]
    data: Any

    def __call__(self, job: Job) -> Numbers:
        with contextlib.suppress(ImportError):
            import torch  # noqa: F401 - single_threaded() limits torch only if it is imported

        with single_threaded():  # sums then do not depend on the engine
            return self.measure(self.data, **job.case)


def run(
    measure: Callable[..., Numbers], data: Any, cases: Sequence[Numbers], *, engine: str | None = None,
    store: str | Path | None = None, progress: Progress | None = None,
) -> list[Numbers]:  # fmt: skip
    """Call ``measure(data, **case)`` for each case and return the results in the order of the cases.

    :param engine: name of the engine, such as "threads" or "processes"; None runs the cases one after the other.
    :param store: JSON file for finished results; an interrupted call continues from it.
    :param progress: called with (finished runs, total runs) after each run.
    :raises UsageError: the store belongs to another experiment.
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
    """Convert the parts of an outcome to plain JSON types."""
    return {
        "claims": [[c.figure, c.says, c.measured, c.holds] for c in claims],
        "numbers": {name: None if math.isnan(value) else value for name, value in numbers.items()},
        "tables": [[t.title, list(t.columns), [list(row) for row in t.rows]] for t in tables],
        "pictures": [picture_to_json(picture) for picture in plots],
    }


def combine_parts(name: str, about: str, seed: int, parts: Sequence[Numbers], seconds: float) -> Outcome:
    """Build one outcome from the parts of several runs, as :func:`to_json_parts` returns them."""
    claims = tuple(Claim(*claim) for part in parts for claim in part["claims"])
    numbers = {name: math.nan if x is None else x for part in parts for name, x in part["numbers"].items()}
    tables = tuple(Table(title, tuple(columns), tuple(tuple(row) for row in rows))
                   for part in parts for title, columns, rows in part["tables"])  # fmt: skip
    pictures = tuple(picture_from_json(picture) for part in parts for picture in part["pictures"])
    return Outcome(name, about, seed, claims, numbers, seconds, tables, pictures)


class _RunStore:
    """Stored results, found by data and case."""

    def __init__(self, path: str | Path, measure: Any, data: Any) -> None:
        self._results = ResultStore(
            path, f"{measure.__module__}.{measure.__qualname__}", contents="runs",
            mismatch="runs of another experiment, {identity}",
        )  # fmt: skip
        self._data = hashlib.sha256(pickle.dumps(data)).hexdigest()[:16]

    def get(self, case: Numbers) -> Numbers | None:
        """Return the stored result of a case, or None."""
        return self._results.get(self._key(case))

    def put(self, case: Numbers, result: Numbers) -> None:
        """Store the result of a case."""
        self._results.put(self._key(case), result)

    def _key(self, case: Numbers) -> str:
        return f"{self._data} {json.dumps(case, sort_keys=True)}"
