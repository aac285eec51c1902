"""Many points evaluated one after the other, or by an engine: holes are kept as such, what is done can be stored."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.engines import machine, scheduling
from layerscope.errors import LayerscopeError, UsageError
from layerscope.lenses.landscape.evaluation.value import Value
from layerscope.live.fingerprints import identify_function
from layerscope.live.torch_models import single_threaded
from layerscope.numerics.finite_numbers import finite_or_none
from layerscope.persistence.result_store import ResultStore
from layerscope.records.sources import SourceSpec
from layerscope.sources.model_weights import Weights, combined

if TYPE_CHECKING:
    from layerscope.array_types import Floats

Progress = Callable[[int, int, float], Any]  # (points done, of how many, seconds left)
NOT_FINITE = "not finite"  # why a point has no value
PIECES = 4  # jobs for each worker of an engine


@contextmanager
def walking(corners: Sequence[Weights], evaluate: Any) -> Iterator[Callable[[Sequence[float]], Value]]:
    """coefficients → Value, by the evaluator's own way where it has one."""
    if hasattr(evaluate, "walk"):
        with evaluate.walk(corners) as at:
            yield at
        return

    def plain(coefficients: Sequence[float]) -> Value:
        found = evaluate(combined(corners, coefficients))
        if isinstance(found, Value):
            return found
        if not isinstance(found, Mapping):
            raise UsageError(f"evaluate returned a {type(found).__name__}, not metrics by name")
        return Value({str(k): float(v) for k, v in found.items()}, np.empty(0))

    yield plain


def evaluated(
    corners: Sequence[Weights], evaluate: Any, wanted: Sequence[Sequence[float]], progress: Progress | None,
    store: GridStore | None = None, engine: str | None = None,
) -> tuple[list[Value | None], dict[str, int]]:  # fmt: skip
    """A value for each point, None where there is none, and why not."""
    found: dict[int, tuple[Value | None, str]] = {}
    clock, known = time.perf_counter(), 0
    if store is not None:
        found = {number: (value, "") for number in range(len(wanted)) if (value := store.get(number)) is not None}
        known = len(found)
    left = [number for number in range(len(wanted)) if number not in found]
    try:
        for number, value, reason in _each(corners, evaluate, wanted, left, engine):
            found[number] = value, reason
            if store is not None:
                store.put(number, value)
            if progress is not None:
                each = (time.perf_counter() - clock) / (len(found) - known)
                progress(len(found), len(wanted), each * (len(wanted) - len(found)))
    finally:
        if store is not None:
            store.flush()
    holes: dict[str, int] = {}
    for number in range(len(wanted)):
        value, reason = found[number]
        if value is None or not all(math.isfinite(x) for x in value.metrics.values()):
            reason = reason or NOT_FINITE
            holes[reason] = holes.get(reason, 0) + 1
    values = [found[number][0] for number in range(len(wanted))]
    if all(value is None for value in values):
        raise UsageError(f"no point could be evaluated: {next(iter(holes), 'no reason given')}")
    return values, holes


Found = tuple[int, Value | None, str]  # (number of the point, what was found, why nothing was)


def _each(
    corners: Sequence[Weights], evaluate: Any, wanted: Sequence[Sequence[float]], left: Sequence[int],
    engine: str | None,
) -> Iterator[Found]:  # fmt: skip
    if engine is None:
        yield from _walk(corners, evaluate, wanted, left)
        return
    run, workers = scheduling.get(engine), machine.cores()
    count = max(1, min(len(left), PIECES * workers))
    pieces = [tuple(int(n) for n in part) for part in np.array_split(np.asarray(left, int), count) if len(part)]
    walk = _Walk(corners, evaluate, wanted)
    spec = SourceSpec(evaluate, "grid", engine != "processes" or walk.travels(), "grid")
    jobs = [_Piece(spec, numbers, float(len(numbers))) for numbers in pieces]
    with single_threaded():
        for _, result in run(walk, jobs, workers=workers, memory=machine.available_memory()):
            if isinstance(result, Exception):
                raise result
            yield from result


@dataclass(frozen=True)
class _Piece:
    """Some points of a grid, a job of an engine."""

    spec: SourceSpec
    numbers: tuple[int, ...]
    cost: float
    memory: int = 0


@dataclass(frozen=True)
class _Walk:
    """What an engine runs: each piece has an evaluator of its own."""

    corners: Sequence[Weights]
    evaluate: Any
    wanted: Sequence[Sequence[float]]

    def __call__(self, piece: _Piece) -> list[Found]:
        evaluate = self.evaluate.twin() if hasattr(self.evaluate, "twin") else self.evaluate
        return list(_walk(self.corners, evaluate, self.wanted, piece.numbers))

    def travels(self) -> bool:
        """Can it be sent to another process?

        :raises UsageError: it cannot, and why.
        """
        try:
            pickle.dumps(self)
        except Exception as error:  # pickle and what is pickled raise anything
            told = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            raise UsageError(f"this evaluator cannot travel to other processes ({told}): use threads") from None
        return True


def _walk(
    corners: Sequence[Weights], evaluate: Any, wanted: Sequence[Sequence[float]], numbers: Sequence[int]
) -> Iterator[Found]:
    if not numbers:
        return
    with walking(corners, evaluate) as at:
        for number in numbers:
            yield number, *tried(at, wanted[number])


def tried(at: Callable[[Sequence[float]], Value], coefficients: Sequence[float]) -> tuple[Value | None, str]:
    try:
        return at(coefficients), ""
    except UsageError:
        raise
    except LayerscopeError as error:
        return None, str(error)[:200]
    except Exception as error:  # one point that fails is a hole
        return None, f"{type(error).__name__}: {error}"[:200]


def metrics_of(values: Sequence[Value | None]) -> dict[str, Floats]:
    """By name; where one of a point's metrics is not finite, it is a hole and has none."""
    names = list(dict.fromkeys(name for value in values if value is not None for name in value.metrics))
    whole = [v.metrics if v is not None and all(map(math.isfinite, v.metrics.values())) else {} for v in values]
    return {name: np.array([metrics.get(name, math.nan) for metrics in whole], float) for name in names}


def about_of(evaluate: Any) -> dict[str, Any]:
    return dict(getattr(evaluate, "about", {"evaluate": getattr(evaluate, "__qualname__", type(evaluate).__name__)}))


def clamped_of(values: Sequence[Value | None]) -> int:
    return sum(value.clamped for value in values if value is not None)


class GridStore:
    """Values of points that are done, in a file that is written every few seconds."""

    WRITE_INTERVAL = 5.0  # seconds

    def __init__(
        self, path: str | File, corners: Sequence[Weights], wanted: Sequence[Sequence[float]], evaluate: Any
    ) -> None:
        """
        :raises UsageError: the file holds another grid.
        """
        self._results = ResultStore(
            path, _fingerprint(corners, wanted, evaluate), contents="grid", interval=self.WRITE_INTERVAL,
            mismatch="another grid: other models, points or evaluation",
        )  # fmt: skip

    def get(self, number: int) -> Value | None:
        """The stored value of a point, if there is one."""
        metrics = self._results.get(str(number))
        if metrics is None:
            return None
        return Value({k: math.nan if v is None else float(v) for k, v in metrics.items()}, np.empty(0))

    def put(self, number: int, value: Value | None) -> None:
        """Store the value of a point."""
        if value is not None:
            self._results.put(str(number), {name: finite_or_none(v) for name, v in value.metrics.items()})

    def flush(self) -> None:
        """Write the file; it appears whole or not at all."""
        self._results.flush()


def _fingerprint(corners: Sequence[Weights], wanted: Sequence[Sequence[float]], evaluate: Any) -> str:
    digest = hashlib.sha256(json.dumps([[float(c) for c in each] for each in wanted]).encode())
    digest.update(json.dumps(about_of(evaluate), sort_keys=True, default=str).encode())
    digest.update(evaluate.fingerprint if hasattr(evaluate, "fingerprint") else identify_function(evaluate))
    for weights in corners:
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()
