"""Lines through models, planes through three of them, and what stands between: loss, accuracy, barriers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.landscape.grid import NOT_FINITE, Store, about_of, clamped_of, evaluated, metrics_of
from layerscope.landscape.grid import Progress as Progress
from layerscope.landscape.weights import Weights, check_alike, learned_of, weights_of
from layerscope.numerics import geometry
from layerscope.rules import Route, judge_landscape
from layerscope.types import Finding

if TYPE_CHECKING:
    from layerscope.types import Floats

MOST = 200_000  # points of one grid
HIGHER = ("accuracy",)  # metrics that are better when higher


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

    def errors(self, metric: str = "loss") -> Floats:
        """Standard error of each point over the examples, (n,): of accuracy √(p(1−p)/N); NaN where it is not known."""
        if metric == "loss" and self.samples.shape[1:] > (1,):
            return np.asarray(self.samples.std(1, ddof=1) / math.sqrt(self.samples.shape[1]))
        p, count = self.metrics[metric], self.about.get("examples", 0)
        if metric in HIGHER and count:
            return np.asarray(np.sqrt(np.clip(p * (1 - p), 0, None) / count))
        return np.full(len(self.t), math.nan)

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
        """As plain JSON types; holes are null. "top" is that of the chord, its error a standard error."""
        top = self.barrier()
        return {
            "names": list(self.names), "t": self.t.tolist(), "about": dict(self.about), "holes": dict(self.holes),
            "metrics": {name: [_plain(v) for v in values] for name, values in self.metrics.items()},
            "barrier": {kind: _plain(self.barrier(kind).value) for kind in geometry.KINDS}, "clamped": self.clamped,
            "top": {"t": _plain(top.at), "value": _plain(top.value), "error": top.error},
            "errors": {name: [_plain(v) for v in self.errors(name)] for name in self.metrics},
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
class Track:
    """A run on the plane of its path: where its checkpoints are, and how true the plane is to them."""

    names: tuple[str, ...]
    where: Floats  # (T, 2) coordinates u, v
    off: Floats  # (T,) distance from the plane
    losses: Floats  # (T,) of the checkpoints themselves
    below: Floats  # (T,) of their places on the plane
    shares: tuple[float, float]  # of the path's variance that the plane's directions explain
    walk: tuple[float, float]  # what those of a random walk would

    @property
    def gap(self) -> float:
        """Largest difference between a checkpoint's loss and that of its place on the plane."""
        apart = np.abs(self.losses - self.below)
        return float(np.nanmax(apart)) if np.isfinite(apart).any() else math.nan

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        rows = {name: [_plain(x) for x in getattr(self, name)] for name in ("off", "losses", "below")}
        return {"names": list(self.names), "where": self.where.tolist(), "shares": list(self.shares),
                "walk": list(self.walk), "gap": _plain(self.gap), **rows}  # fmt: skip


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
    track: Track | None = None  # of a run on the plane of its path

    @property
    def findings(self) -> tuple[Finding, ...]:
        """LS308, of the plane of a run."""
        if self.track is None:
            return ()
        spread = float(np.ptp(self.track.losses)) if np.isfinite(self.track.losses).all() else 0.0
        return judge_landscape(route=Route(self.track.shares, self.track.walk, self.track.gap, spread))

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

    def plot(self, metric: str = "", ax: Any = None, *, coordinates: str = "affine", surface: bool = False) -> Any:
        """The plane as a matplotlib figure: accuracy, where there is one.

        :param coordinates: "affine": u and v as if they were orthogonal; "orthonormal": true angles, in weight units.
        :param surface: seen from the side instead, its height the metric.
        :raises UnknownName: other coordinates.
        """
        from layerscope.views.plots import _landscape, drawn

        picture = _landscape.surface(self, metric) if surface else _landscape.plane(self, metric, coordinates)
        return drawn([picture], ax)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; holes are null."""
        return {
            "names": list(self.names), "u": self.u.tolist(), "v": self.v.tolist(), "about": dict(self.about),
            "metrics": {k: [[_plain(x) for x in row] for row in values] for k, values in self.metrics.items()},
            "holes": dict(self.holes), "corners": [[_plain(x) for x in row] for row in self.corners],
            "angle": _plain(self.angle), "clamped": self.clamped,
            **({"track": self.track.to_dict(), "findings": [[f.code, f.title, f.message] for f in self.findings]}
               if self.track is not None else {}),
        }  # fmt: skip

    def __repr__(self) -> str:
        from layerscope.views.landscape import plane

        return plane(self)


def line(
    a: Any, b: Any, evaluate: Any, *, points: int = 25, span: tuple[float, float] = (0.0, 1.0),
    names: tuple[str, str] = ("A", "B"), progress: Progress | None = None, engine: str | None = None,
) -> Line:  # fmt: skip
    """Loss and accuracy along the line through two models.

    :param a, b: models: live, files, or arrays by name.
    :param evaluate: :func:`layerscope.evaluator`, or any function of weights by name that gives metrics by name.
    :param span: of t; 0 and 1 are A and B, which are always among the points where the span holds them.
    :param engine: "threads", "processes", …: pieces of the line at once. Without one, point after point.
    :raises UsageError: models of different kinds, or a number of points that is none.
    """
    if not isinstance(points, int) or not 2 <= points <= MOST:
        raise UsageError(f"points must be between 2 and {MOST:,}, not {points}")
    low, high = span if isinstance(span, tuple | list) and len(span) == 2 else (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"span must ascend: {span!r}")
    t = np.unique(np.concatenate([np.linspace(low, high, points), [x for x in (0.0, 1.0) if low <= x <= high]]))
    t = t[np.concatenate([[True], np.diff(t) > 1e-9])]
    t[np.isclose(t, 0.0, atol=1e-9)], t[np.isclose(t, 1.0, atol=1e-9)] = 0.0, 1.0
    corners = [weights_of(a), weights_of(b)]
    check_alike(corners, names)
    values, holes = evaluated(corners, evaluate, [(1 - x, x) for x in t], progress, engine=engine)
    holes = _blamed(holes, corners, names)
    full = all(value is not None and len(value.samples) for value in values)
    samples = np.stack([value.samples for value in values if value is not None]) if full else np.zeros((0, 0))
    return Line(names, t, metrics_of(values), about_of(evaluate), holes, samples, clamped_of(values))


def plane(
    a: Any, b: Any, c: Any, evaluate: Any, *,
    u: tuple[float, float, int] = (-0.5, 1.5, 21), v: tuple[float, float, int] = (-0.5, 1.5, 21),
    names: tuple[str, str, str] = ("A", "B", "C"), progress: Progress | None = None, store: str | File | None = None,
    engine: str | None = None,
) -> Plane:  # fmt: skip
    """Loss and accuracy on the plane through three models, M(u, v) = A + u(B−A) + v(C−A).

    :param u, v: (first, last, number of points).
    :param store: a file that holds what was done: an interrupted call with the same arguments goes on from it.
    :param engine: as of :func:`~layerscope.line`.
    :raises UsageError: models of different kinds, a grid of no points or too many, or a store of another plane.
    """
    us, vs = (_axis(name, axis) for name, axis in (("u", u), ("v", v)))
    if len(us) * len(vs) > MOST:
        raise UsageError(f"a grid of {len(us)} × {len(vs)} is {len(us) * len(vs):,} evaluations; at most {MOST:,}")
    corners = [weights_of(model) for model in (a, b, c)]
    check_alike(corners, names)
    wanted = [(1 - x - y, x, y) for y in vs for x in us]
    kept = Store(store, corners, wanted, evaluate) if store is not None else None
    values, holes = evaluated(corners, evaluate, wanted, progress, kept, engine)
    holes = _blamed(holes, corners, names)
    metrics = {name: row.reshape(len(vs), len(us)) for name, row in metrics_of(values).items()}
    where, angle = _frame(corners)
    return Plane(names, us, vs, metrics, about_of(evaluate), holes, where, angle, clamped_of(values))


def _blamed(holes: Mapping[str, int], corners: Sequence[Weights], names: Sequence[str]) -> dict[str, int]:
    """With the model whose weights explain what is not finite."""
    bad = [
        f"{key} of {name}" for name, weights in zip(names, corners, strict=True) if NOT_FINITE in holes
        for key, value in weights.items() if not np.isfinite(value).all() and not _same(key, corners)
    ]  # fmt: skip
    told = f"{NOT_FINITE}: {bad[0]} is not" if bad else NOT_FINITE
    return {told if reason == NOT_FINITE else reason: count for reason, count in holes.items()}


def _same(key: str, corners: Sequence[Weights]) -> bool:
    """Is it alike in all, as a mask is?"""
    return all(np.array_equal(weights[key], corners[0][key]) for weights in corners)


def _axis(name: str, axis: tuple[float, float, int]) -> Floats:
    if not isinstance(axis, tuple | list) or len(axis) != 3:
        raise UsageError(f"{name} is (first, last, points), not {axis!r}")
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


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
