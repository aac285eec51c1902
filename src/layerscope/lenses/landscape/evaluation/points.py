"""Evaluate many points, one after the other or by an engine; values can be stored, and points without one are holes."""

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
from layerscope.sources.model_weights import Weights, combine

if TYPE_CHECKING:
    from layerscope.array_types import Floats

Progress = Callable[[int, int, float], Any]  # (points done, of how many, seconds left)
NOT_FINITE = "not finite"  # why a point has no value
JOBS_PER_WORKER = 4  # of an engine
MAX_REASON_CHARS = 200


@contextmanager
def walking(corners: Sequence[Weights], evaluate: Any) -> Iterator[Callable[[Sequence[float]], Value]]:
    """coefficients → Value, by the evaluator's own way where it has one."""
    if hasattr(evaluate, "walk"):
        with evaluate.walk(corners) as value_at:
            yield value_at
        return

    def evaluate_mixture(coefficients: Sequence[float]) -> Value:
        value = evaluate(combine(corners, coefficients))
        if isinstance(value, Value):
            return value
        if not isinstance(value, Mapping):
            raise UsageError(f"evaluate returned a {type(value).__name__}, not metrics by name")
        return Value({str(k): float(v) for k, v in value.items()}, np.empty(0))

    yield evaluate_mixture


def evaluate_points(
    corners: Sequence[Weights], evaluate: Any, points: Sequence[Sequence[float]], progress: Progress | None,
    store: GridStore | None = None, engine: str | None = None,
) -> tuple[list[Value | None], dict[str, int]]:  # fmt: skip
    """A value for each point Σ cᵢ·cornersᵢ, None where there is none; and how many have none, by reason.

    :param points: the coefficients of each.
    :raises UsageError: none could be evaluated.
    """
    results: dict[int, tuple[Value | None, str]] = {}  # number of the point → (value, why there is none)
    start, stored = time.perf_counter(), 0
    if store is not None:
        results = {number: (value, "") for number in range(len(points)) if (value := store.get(number)) is not None}
        stored = len(results)
    remaining = [number for number in range(len(points)) if number not in results]
    try:
        for number, value, reason in _evaluate_each(corners, evaluate, points, remaining, engine):
            results[number] = value, reason
            if store is not None:
                store.put(number, value)
            if progress is not None:
                seconds = (time.perf_counter() - start) / (len(results) - stored)
                progress(len(results), len(points), seconds * (len(points) - len(results)))
    finally:
        if store is not None:
            store.flush()
    holes: dict[str, int] = {}
    for number in range(len(points)):
        value, reason = results[number]
        if value is None or not all(math.isfinite(x) for x in value.metrics.values()):
            reason = reason or NOT_FINITE
            holes[reason] = holes.get(reason, 0) + 1
    values = [results[number][0] for number in range(len(points))]
    if all(value is None for value in values):
        raise UsageError(f"no point could be evaluated: {next(iter(holes), 'no reason given')}")
    return values, holes


PointResult = tuple[int, Value | None, str]  # (number of the point, its value, why there is none)


def _evaluate_each(
    corners: Sequence[Weights], evaluate: Any, points: Sequence[Sequence[float]], numbers: Sequence[int],
    engine: str | None,
) -> Iterator[PointResult]:  # fmt: skip
    if engine is None:
        yield from _evaluate_in_turn(corners, evaluate, points, numbers)
        return
    run, workers = scheduling.engine_named(engine), machine.available_cores()
    count = max(1, min(len(numbers), JOBS_PER_WORKER * workers))
    pieces = [tuple(int(n) for n in part) for part in np.array_split(np.asarray(numbers, int), count) if len(part)]
    evaluate_piece = _PieceEvaluator(corners, evaluate, points)
    if engine == "processes":
        evaluate_piece.check_picklable()
    spec = SourceSpec(evaluate, "grid", True, "grid")
    jobs = [_Piece(spec, piece, float(len(piece))) for piece in pieces]
    with single_threaded():
        for _, result in run(evaluate_piece, jobs, workers=workers, memory=machine.available_memory()):
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
class _PieceEvaluator:
    """What an engine runs: each piece has an evaluator of its own."""

    corners: Sequence[Weights]
    evaluate: Any
    points: Sequence[Sequence[float]]

    def __call__(self, piece: _Piece) -> list[PointResult]:
        evaluate = self.evaluate.twin() if hasattr(self.evaluate, "twin") else self.evaluate
        return list(_evaluate_in_turn(self.corners, evaluate, self.points, piece.numbers))

    def check_picklable(self) -> None:
        """
        :raises UsageError: it cannot be sent to another process, and why.
        """
        try:
            pickle.dumps(self)
        except Exception as error:  # pickle and what is pickled raise anything
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            raise UsageError(f"this evaluator cannot travel to other processes ({reason}): use threads") from None


def _evaluate_in_turn(
    corners: Sequence[Weights], evaluate: Any, points: Sequence[Sequence[float]], numbers: Sequence[int]
) -> Iterator[PointResult]:
    if not numbers:
        return
    with walking(corners, evaluate) as value_at:
        for number in numbers:
            yield number, *evaluate_or_explain(value_at, points[number])


def evaluate_or_explain(
    value_at: Callable[[Sequence[float]], Value], coefficients: Sequence[float]
) -> tuple[Value | None, str]:
    """(the value, ""), or (None, why there is none)."""
    try:
        return value_at(coefficients), ""
    except UsageError:
        raise
    except LayerscopeError as error:
        return None, str(error)[:MAX_REASON_CHARS]
    except Exception as error:  # one point that fails is a hole
        return None, f"{type(error).__name__}: {error}"[:MAX_REASON_CHARS]


def metrics_of(values: Sequence[Value | None]) -> dict[str, Floats]:
    """By name; where one of a point's metrics is not finite, it is a hole and has none."""
    names = list(dict.fromkeys(name for value in values if value is not None for name in value.metrics))
    rows = [v.metrics if v is not None and all(map(math.isfinite, v.metrics.values())) else {} for v in values]
    return {name: np.array([metrics.get(name, math.nan) for metrics in rows], float) for name in names}


def samples_of(values: Sequence[Value | None]) -> Floats:
    """(points, examples) losses; empty where a point has none."""
    samples = [value.samples for value in values if value is not None and len(value.samples)]
    return np.stack(samples) if len(samples) == len(values) else np.zeros((0, 0))


def about_of(evaluate: Any) -> dict[str, Any]:
    return dict(getattr(evaluate, "about", {"evaluate": getattr(evaluate, "__qualname__", type(evaluate).__name__)}))


def clamped_of(values: Sequence[Value | None]) -> int:
    return sum(value.clamped for value in values if value is not None)


class GridStore:
    """Values of points that are done, in a file that is written every few seconds."""

    WRITE_INTERVAL = 5.0  # seconds

    def __init__(
        self, path: str | File, corners: Sequence[Weights], points: Sequence[Sequence[float]], evaluate: Any
    ) -> None:
        """
        :raises UsageError: the file holds another grid.
        """
        self._results = ResultStore(
            path, _fingerprint(corners, points, evaluate), contents="grid", interval=self.WRITE_INTERVAL,
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


def _fingerprint(corners: Sequence[Weights], points: Sequence[Sequence[float]], evaluate: Any) -> str:
    digest = hashlib.sha256(json.dumps([[float(c) for c in point] for point in points]).encode())
    digest.update(json.dumps(about_of(evaluate), sort_keys=True, default=str).encode())
    digest.update(evaluate.fingerprint if hasattr(evaluate, "fingerprint") else identify_function(evaluate))
    for weights in corners:
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()
