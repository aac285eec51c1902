"""Evaluate many points in order or in parallel, with optional storage. Points that fail are counted as holes."""

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

Progress = Callable[[int, int, float], Any]  # (points done, total points, seconds left)
NOT_FINITE = "not finite"  # reason for points with a NaN or infinite metric
JOBS_PER_WORKER = 4  # pieces per worker, so that all workers finish at about the same time
MAX_REASON_CHARS = 200


@contextmanager
def walking(corners: Sequence[Weights], evaluate: Any) -> Iterator[Callable[[Sequence[float]], Value]]:
    """Yield a function from coefficients to values, using the evaluator's ``walk`` method if it has one."""
    if hasattr(evaluate, "walk"):
        with evaluate.walk(corners) as value_at:
            yield value_at
        return

    def evaluate_mixture(coefficients: Sequence[float]) -> Value:
        value = evaluate(combine(corners, coefficients))
        if isinstance(value, Value):
            return value
        if not isinstance(value, Mapping):
            raise UsageError(
                f"evaluate returned a {type(value).__name__}: it must return metrics by name, e.g. {{'loss': 0.1}}"
            )
        return Value({str(k): float(v) for k, v in value.items()}, np.empty(0))

    yield evaluate_mixture


def evaluate_points(
    corners: Sequence[Weights], evaluate: Any, points: Sequence[Sequence[float]], progress: Progress | None,
    store: GridStore | None = None, engine: str | None = None,
) -> tuple[list[Value | None], dict[str, int]]:  # fmt: skip
    """Evaluate each point Σ cᵢ·cornersᵢ; return the values, None for failures, and the number of failures by reason.

    :param corners: the weights that are mixed.
    :param evaluate: an evaluator, or a function from weights by name to metrics by name.
    :param points: the coefficients of each point.
    :param progress: called after each point with (points done, total points, seconds left).
    :param store: storage for finished points.
    :param engine: name of the engine for parallel evaluation; None evaluates points in order.
    :raises UsageError: if no point can be evaluated.
    """
    results: dict[int, tuple[Value | None, str]] = {}  # point number → (value, reason if there is none)
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
        raise UsageError(
            f"no point could be evaluated: {next(iter(holes), 'no reason was given')}; check the model and its data"
        )
    return values, holes


PointResult = tuple[int, Value | None, str]  # (point number, value, reason if there is none)


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
    """A subset of the points, evaluated as one job of an engine."""

    spec: SourceSpec
    numbers: tuple[int, ...]
    cost: float
    memory: int = 0


@dataclass(frozen=True)
class _PieceEvaluator:
    """Callable that an engine runs; it evaluates each piece with a separate copy of the evaluator."""

    corners: Sequence[Weights]
    evaluate: Any
    points: Sequence[Sequence[float]]

    def __call__(self, piece: _Piece) -> list[PointResult]:
        evaluate = self.evaluate.twin() if hasattr(self.evaluate, "twin") else self.evaluate
        return list(_evaluate_in_turn(self.corners, evaluate, self.points, piece.numbers))

    def check_picklable(self) -> None:
        """Check that the evaluator can be sent to another process.

        :raises UsageError: if it cannot be pickled.
        """
        try:
            pickle.dumps(self)
        except Exception as error:  # pickling user code can raise any exception
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            raise UsageError(
                f"engine='processes': the evaluator cannot be pickled ({reason}); use engine='threads'"
            ) from None


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
    """Return (value, "") for a point, or (None, reason) if its evaluation fails."""
    try:
        return value_at(coefficients), ""
    except UsageError:
        raise
    except LayerscopeError as error:
        return None, str(error)[:MAX_REASON_CHARS]
    except Exception as error:  # a failing point becomes a hole, so the others are still evaluated
        return None, f"{type(error).__name__}: {error}"[:MAX_REASON_CHARS]


def metrics_of(values: Sequence[Value | None]) -> dict[str, Floats]:
    """Return arrays of metrics by name; a point with any metric that is not finite is NaN in all of them."""
    names = list(dict.fromkeys(name for value in values if value is not None for name in value.metrics))
    rows = [v.metrics if v is not None and all(map(math.isfinite, v.metrics.values())) else {} for v in values]
    return {name: np.array([metrics.get(name, math.nan) for metrics in rows], float) for name in names}


def samples_of(values: Sequence[Value | None]) -> Floats:
    """Return the losses (points, examples), or an empty array if some point has none."""
    samples = [value.samples for value in values if value is not None and len(value.samples)]
    return np.stack(samples) if len(samples) == len(values) else np.zeros((0, 0))


def about_of(evaluate: Any) -> dict[str, Any]:
    return dict(getattr(evaluate, "about", {"evaluate": getattr(evaluate, "__qualname__", type(evaluate).__name__)}))


def clamped_of(values: Sequence[Value | None]) -> int:
    return sum(value.clamped for value in values if value is not None)


class GridStore:
    """Stores the values of finished points in a file, which is written every few seconds."""

    WRITE_INTERVAL = 5.0  # seconds

    def __init__(
        self, path: str | File, corners: Sequence[Weights], points: Sequence[Sequence[float]], evaluate: Any
    ) -> None:
        """Open the store.

        :raises UsageError: if the file holds another grid.
        """
        self._results = ResultStore(
            path, _fingerprint(corners, points, evaluate), contents="grid points", interval=self.WRITE_INTERVAL,
            mismatch="another grid, with different models, points or evaluation",
        )  # fmt: skip

    def get(self, number: int) -> Value | None:
        """Return the stored value of a point, or None."""
        metrics = self._results.get(str(number))
        if metrics is None:
            return None
        return Value({k: math.nan if v is None else float(v) for k, v in metrics.items()}, np.empty(0))

    def put(self, number: int, value: Value | None) -> None:
        """Store the value of a point."""
        if value is not None:
            self._results.put(str(number), {name: finite_or_none(v) for name, v in value.metrics.items()})

    def flush(self) -> None:
        """Write the file atomically."""
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
