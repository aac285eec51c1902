"""Lines through models, planes through three of them, and what stands between: loss, accuracy, barriers."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import LayerscopeError, Unreadable, UsageError
from layerscope.landscape._torch import told_of
from layerscope.landscape.evaluate import Value
from layerscope.landscape.points import named
from layerscope.landscape.weights import Weights, check_alike, combined, learned_of, weights_of
from layerscope.numerics import geometry

if TYPE_CHECKING:
    from layerscope.types import Floats

MOST = 200_000  # points of one grid
HIGHER = ("accuracy",)  # metrics that are better when higher
Progress = Callable[[int, int, float], Any]  # (points done, of how many, seconds left)


@dataclass(frozen=True, eq=False)
class Line:
    """What was found along (1−t)·A + t·B."""

    names: tuple[str, str]
    t: Floats  # (n,)
    metrics: Mapping[str, Floats]  # by name, (n,); NaN where there is a hole
    about: Mapping[str, Any]  # examples, loss, policy of batch norms
    holes: Mapping[str, int]  # points without a value, by reason
    samples: Floats = field(default_factory=lambda: np.zeros((0, 0)), repr=False)  # (n, examples) losses
    clamped: int = 0  # variances below zero that interpolation made

    def barrier(self, kind: str = "chord", metric: str = "loss") -> Barrier:
        """The hill between the ends; of accuracy, that of the error.

        :param kind: "chord", "mean_ends", "max_ends" or "signed", see :func:`layerscope.numerics.geometry.barrier`.
        :raises UsageError: no such kind or metric.
        """
        if kind not in geometry.KINDS or metric not in self.metrics:
            raise UsageError(f"barriers are {', '.join(geometry.KINDS)} of {', '.join(self.metrics)}")
        values = 1 - self.metrics[metric] if metric in HIGHER else self.metrics[metric]
        found = geometry.barrier(self.t, values, kind)
        return Barrier(found.value, found.at, self._error(found.at, metric), kind, metric)

    @property
    def rise(self) -> float:
        """Largest rise of the loss over its running minimum from A to B: 0 where it only falls."""
        inside = (self.t >= 0) & (self.t <= 1)
        return geometry.monotone_rise(self.metrics["loss"][inside])

    def plot(self, *others: Line, ax: Any = None) -> Any:
        """The curves as a matplotlib figure, with those of other lines."""
        from layerscope.views.plots import _landscape, drawn

        return drawn([_landscape.line([self, *others])], ax)

    def _error(self, at: float, metric: str) -> float | None:
        """Standard error of the top over the chord, paired: the same examples were seen everywhere."""
        rows = {float(t): row for t, row in zip(self.t, self.samples, strict=False)}
        if metric != "loss" or not {0.0, 1.0, at} <= rows.keys():
            return None
        over = rows[at] - (1 - at) * rows[0.0] - at * rows[1.0]
        return float(over.std(ddof=1) / math.sqrt(len(over))) if len(over) > 1 and np.isfinite(over).all() else None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; holes are null."""
        return {
            "names": list(self.names), "t": self.t.tolist(), "about": dict(self.about), "holes": dict(self.holes),
            "metrics": {name: [_plain(v) for v in values] for name, values in self.metrics.items()},
            "barrier": {kind: _plain(self.barrier(kind).value) for kind in geometry.KINDS}, "clamped": self.clamped,
        }  # fmt: skip

    def __repr__(self) -> str:
        from layerscope.views.landscape import line

        return line(self)


@dataclass(frozen=True)
class Barrier:
    """How high the hill between two models is."""

    value: float
    at: float  # t of its top
    error: float | None  # standard error, over the examples; None where single losses are not known
    kind: str
    metric: str


@dataclass(frozen=True, eq=False)
class Plane:
    """What was found at A + u·(B−A) + v·(C−A)."""

    names: tuple[str, str, str]
    u: Floats  # (m,)
    v: Floats  # (n,)
    metrics: Mapping[str, Floats]  # by name, (n, m): a row for each v
    about: Mapping[str, Any]
    holes: Mapping[str, int]
    corners: Floats  # (3, 2) of A, B, C in weight units, orthonormal axes; NaN where they lie on a line
    angle: float  # at A, degrees
    clamped: int = 0

    def best(self, metric: str = "accuracy") -> tuple[float, float, float]:
        """(value, u, v) of the best point.

        :raises UsageError: no such metric, or nothing but holes.
        """
        if metric not in self.metrics:
            raise UsageError(f"the plane has {', '.join(self.metrics)}, not {metric!r}")
        values = self.metrics[metric] if metric in HIGHER else -self.metrics[metric]
        if not np.isfinite(values).any():
            raise UsageError("every point is a hole")
        i, j = np.unravel_index(int(np.nanargmax(values)), values.shape)
        return float(self.metrics[metric][i, j]), float(self.u[j]), float(self.v[i])

    def coordinates(self) -> tuple[Floats, Floats]:
        """(x, y), (n, m) each: where the points lie on orthonormal axes, in weight units."""
        (_, _), (b, _), (cx, cy) = self.corners
        u, v = np.meshgrid(self.u, self.v)
        return u * b + v * cx, v * cy

    def plot(self, metric: str = "", ax: Any = None) -> Any:
        """The plane as a matplotlib figure: accuracy, where there is one."""
        from layerscope.views.plots import _landscape, drawn

        return drawn([_landscape.plane(self, metric)], ax)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; holes are null."""
        return {
            "names": list(self.names), "u": self.u.tolist(), "v": self.v.tolist(), "about": dict(self.about),
            "metrics": {k: [[_plain(x) for x in row] for row in values] for k, values in self.metrics.items()},
            "holes": dict(self.holes), "corners": [[_plain(x) for x in row] for row in self.corners],
            "angle": _plain(self.angle), "clamped": self.clamped,
        }  # fmt: skip

    def __repr__(self) -> str:
        from layerscope.views.landscape import plane

        return plane(self)


def line(
    a: Any, b: Any, evaluate: Any, *, points: int = 25, span: tuple[float, float] = (0.0, 1.0),
    names: tuple[str, str] = ("A", "B"), progress: Progress | None = None,
) -> Line:  # fmt: skip
    """Loss and accuracy along the line through two models.

    :param a, b: models: live, files, or arrays by name.
    :param evaluate: :func:`layerscope.evaluator`, or any function of weights by name that gives metrics by name.
    :param span: of t; 0 and 1 are A and B, which are always among the points where the span holds them.
    :raises UsageError: models of different kinds, or a number of points that is none.
    """
    if not isinstance(points, int) or not 2 <= points <= MOST:
        raise UsageError(f"points must be between 2 and {MOST:,}, not {points}")
    low, high = span
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"span must ascend: {span!r}")
    t = np.unique(np.concatenate([np.linspace(low, high, points), [x for x in (0.0, 1.0) if low <= x <= high]]))
    t = t[np.concatenate([[True], np.diff(t) > 1e-9])]
    t[np.isclose(t, 0.0, atol=1e-9)], t[np.isclose(t, 1.0, atol=1e-9)] = 0.0, 1.0
    corners = [weights_of(a), weights_of(b)]
    check_alike(corners, names)
    values, holes = evaluated(corners, evaluate, [(1 - x, x) for x in t], progress)
    full = all(value is not None and len(value.samples) for value in values)
    samples = np.stack([value.samples for value in values if value is not None]) if full else np.zeros((0, 0))
    return Line(names, t, metrics_of(values), about_of(evaluate), holes, samples, clamped_of(values))


def plane(
    a: Any, b: Any, c: Any, evaluate: Any, *,
    u: tuple[float, float, int] = (-0.5, 1.5, 21), v: tuple[float, float, int] = (-0.5, 1.5, 21),
    names: tuple[str, str, str] = ("A", "B", "C"), progress: Progress | None = None, store: str | File | None = None,
) -> Plane:  # fmt: skip
    """Loss and accuracy on the plane through three models, M(u, v) = A + u(B−A) + v(C−A).

    :param u, v: (first, last, number of points).
    :param store: a file that holds what was done: an interrupted call with the same arguments goes on from it.
    :raises UsageError: models of different kinds, a grid of no points or too many, or a store of another plane.
    """
    us, vs = (_axis(name, axis) for name, axis in (("u", u), ("v", v)))
    if len(us) * len(vs) > MOST:
        raise UsageError(f"a grid of {len(us)} × {len(vs)} is {len(us) * len(vs):,} evaluations; at most {MOST:,}")
    corners = [weights_of(model) for model in (a, b, c)]
    check_alike(corners, names)
    wanted = [(1 - x - y, x, y) for y in vs for x in us]
    kept = _Store(store, corners, wanted, evaluate) if store is not None else None
    values, holes = evaluated(corners, evaluate, wanted, progress, kept)
    metrics = {name: row.reshape(len(vs), len(us)) for name, row in metrics_of(values).items()}
    where, angle = _frame(corners)
    return Plane(names, us, vs, metrics, about_of(evaluate), holes, where, angle, clamped_of(values))


def _axis(name: str, axis: tuple[float, float, int]) -> Floats:
    first, last, count = axis
    if isinstance(count, int) and count > MOST:
        raise UsageError(f"{name} has {count:,} points; a grid has at most {MOST:,}")
    if (
        not isinstance(count, int)
        or count < 2
        or not first < last
        or not (math.isfinite(first) and math.isfinite(last))
    ):
        raise UsageError(f"{name} is (first, last, points), ascending, at least two points: not {axis!r}")
    return np.round(np.linspace(first, last, count), 12)


def _frame(corners: Sequence[Weights]) -> tuple[Floats, float]:
    names = learned_of(corners[0])
    products = sum((geometry.gram([point[name].reshape(-1) for point in corners]) for name in names), np.zeros((3, 3)))
    try:
        return geometry.frame(products)
    except ValueError:
        return np.full((3, 2), math.nan), math.nan


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
    store: _Store | None = None,
) -> tuple[list[Value | None], dict[str, int]]:  # fmt: skip
    """A value for each point, None where there is none, and why not."""
    found: list[Value | None] = []
    holes: dict[str, int] = {}
    clock = time.perf_counter()
    with walking(corners, evaluate) as at:
        for number, coefficients in enumerate(wanted):
            value = store.get(number) if store is not None else None
            if value is None:
                value, reason = _tried(at, coefficients)
                if store is not None:
                    store.put(number, value)
            else:
                reason = ""
            if value is None or not all(math.isfinite(x) for x in value.metrics.values()):
                reason = reason or "not finite"
                holes[reason] = holes.get(reason, 0) + 1
            found.append(value)
            if progress is not None:
                done = number + 1
                progress(done, len(wanted), (time.perf_counter() - clock) / done * (len(wanted) - done))
    if store is not None:
        store.flush()
    if all(value is None for value in found):
        raise UsageError(f"no point could be evaluated: {next(iter(holes), 'no reason given')}")
    return found, holes


def _tried(at: Callable[[Sequence[float]], Value], coefficients: Sequence[float]) -> tuple[Value | None, str]:
    try:
        return at(coefficients), ""
    except UsageError:
        raise
    except LayerscopeError as error:
        return None, str(error)[:200]
    except Exception as error:  # one point that fails is a hole
        return None, f"{type(error).__name__}: {error}"[:200]


def metrics_of(values: Sequence[Value | None]) -> dict[str, Floats]:
    names = list(dict.fromkeys(name for value in values if value is not None for name in value.metrics))
    return {
        name: np.array([math.nan if v is None else v.metrics.get(name, math.nan) for v in values], float)
        for name in names
    }


def about_of(evaluate: Any) -> dict[str, Any]:
    return dict(getattr(evaluate, "about", {"evaluate": getattr(evaluate, "__qualname__", type(evaluate).__name__)}))


def clamped_of(values: Sequence[Value | None]) -> int:
    return sum(value.clamped for value in values if value is not None)


class _Store:
    """Values of points that are done, in a file that is written every few seconds."""

    EVERY = 5.0  # seconds

    def __init__(
        self, path: str | File, corners: Sequence[Weights], wanted: Sequence[Sequence[float]], evaluate: Any
    ) -> None:
        """
        :raises UsageError: the file holds another plane.
        """
        self.path, self.key = File(path), _fingerprint(corners, wanted, evaluate)
        self._done: dict[int, dict[str, float | None]] = {}
        self._clock = time.perf_counter()
        if self.path.exists():
            try:
                with zipfile.ZipFile(self.path) as archive:
                    told = json.loads(archive.read("grid.json"))
                key, done = told["key"], {int(k): dict(v) for k, v in told["done"].items()}
            except Exception as error:  # whatever is wrong with a file of a stranger
                raise Unreadable(f"{self.path}: no stored grid: {type(error).__name__}: {error}") from None
            if key != self.key:
                raise UsageError(
                    f"{self.path} holds another grid: other models, points or evaluation; choose a new file"
                )
            self._done = done

    def get(self, number: int) -> Value | None:
        """What was found at this point, if it was."""
        if number not in self._done:
            return None
        told = self._done[number]
        return Value({k: math.nan if v is None else float(v) for k, v in told.items()}, np.empty(0))

    def put(self, number: int, value: Value | None) -> None:
        """Keep it."""
        if value is None:
            return
        self._done[number] = {k: v if math.isfinite(v) else None for k, v in value.metrics.items()}
        if time.perf_counter() - self._clock > self.EVERY:
            self.flush()

    def flush(self) -> None:
        """Write the file; it appears whole or not at all."""
        from layerscope.views.files import write_whole

        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("grid.json", json.dumps({"key": self.key, "done": self._done}))
        write_whole(self.path, buffer.getvalue())
        self._clock = time.perf_counter()


def _fingerprint(corners: Sequence[Weights], wanted: Sequence[Sequence[float]], evaluate: Any) -> str:
    digest = hashlib.sha256(json.dumps([[float(c) for c in each] for each in wanted]).encode())
    digest.update(json.dumps(about_of(evaluate), sort_keys=True, default=str).encode())
    digest.update(evaluate.fingerprint if hasattr(evaluate, "fingerprint") else told_of(evaluate))
    for weights in corners:
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def given(models: Any) -> dict[str, Any]:
    """Models by name; see :func:`~layerscope.landscape.points.named`."""
    return named(models)
