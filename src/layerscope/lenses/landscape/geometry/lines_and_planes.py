"""Evaluate the loss and other metrics on lines through two models and planes through three."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.lenses.landscape.evaluation.points import (
    NOT_FINITE,
    GridStore,
    about_of,
    clamped_of,
    evaluate_points,
    metrics_of,
    samples_of,
)
from layerscope.lenses.landscape.evaluation.points import Progress as Progress
from layerscope.numerics import parameter_geometry
from layerscope.records.landscape.lines import Line
from layerscope.records.landscape.planes import Plane
from layerscope.sources.model_weights import Weights, check_same_tensors, trainable_names, weights_of_all

if TYPE_CHECKING:
    from layerscope.array_types import Floats

MAX_GRID_POINTS = 200_000


def line(
    a: Any, b: Any, evaluate: Any, *, points: int = 25, span: tuple[float, float] = (0.0, 1.0),
    names: tuple[str, str] = ("A", "B"), progress: Progress | None = None, engine: str | None = None,
) -> Line:  # fmt: skip
    """Evaluate the loss and other metrics along the line through two models.

    :param a, b: the models: live, files, or arrays by name.
    :param evaluate: a :func:`layerscope.evaluator`, or any function from weights by name to metrics by name.
    :param points: number of points evaluated on the line.
    :param span: (first, last) value of t, where 0 is A and 1 is B. Both models are evaluated if the span includes them.
    :param names: names of the two models.
    :param progress: called after each point with (points done, total points, seconds left).
    :param engine: evaluate parts of the line in parallel: "threads", "processes", …; by default points are evaluated
        one after the other.
    :raises UsageError: if the models have different tensors, or points or span is invalid.
    """
    if not isinstance(points, int) or not 2 <= points <= MAX_GRID_POINTS:
        raise UsageError(f"points={points!r}: points must be between 2 and {MAX_GRID_POINTS:,}")
    low, high = span if isinstance(span, tuple | list) and len(span) == 2 else (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"span={span!r}: pass two numbers; the first value must be smaller than the second, e.g. span=(0, 1)"
        )
    t = np.unique(np.concatenate([np.linspace(low, high, points), [x for x in (0.0, 1.0) if low <= x <= high]]))
    t = t[np.concatenate([[True], np.diff(t) > 1e-9])]
    t[np.isclose(t, 0.0, atol=1e-9)], t[np.isclose(t, 1.0, atol=1e-9)] = 0.0, 1.0
    corners = weights_of_all((a, b))
    check_same_tensors(corners, names)
    values, holes = evaluate_points(corners, evaluate, [(1 - x, x) for x in t], progress, engine=engine)
    holes = _name_nonfinite_weights(holes, corners, names)
    return Line(names, t, metrics_of(values), about_of(evaluate), holes, samples_of(values), clamped_of(values))


def plane(
    a: Any, b: Any, c: Any, evaluate: Any, *,
    u: tuple[float, float, int] = (-0.5, 1.5, 21), v: tuple[float, float, int] = (-0.5, 1.5, 21),
    names: tuple[str, str, str] = ("A", "B", "C"), progress: Progress | None = None, store: str | File | None = None,
    engine: str | None = None,
) -> Plane:  # fmt: skip
    """Evaluate the loss and other metrics on the plane through three models, M(u, v) = A + u(B−A) + v(C−A).

    :param a, b, c: the models: live, files, or arrays by name.
    :param evaluate: a :func:`layerscope.evaluator`, or any function from weights by name to metrics by name.
    :param u, v: (first, last, number of points) of each axis.
    :param names: names of the three models.
    :param progress: called after each point with (points done, total points, seconds left).
    :param store: file in which finished points are saved; an interrupted call with the same arguments resumes from it.
    :param engine: evaluate points in parallel, as for :func:`~layerscope.line`.
    :raises UsageError: if the models have different tensors, the grid is invalid, or the store holds another plane.
    """
    us, vs = (_axis(name, axis) for name, axis in (("u", u), ("v", v)))
    count = len(us) * len(vs)
    if count > MAX_GRID_POINTS:
        raise UsageError(
            f"u and v: a grid of {len(us)} × {len(vs)} has {count:,} points; the limit is {MAX_GRID_POINTS:,}"
        )
    corners = weights_of_all((a, b, c))
    check_same_tensors(corners, names)
    points = [(1 - x - y, x, y) for y in vs for x in us]
    grid_store = GridStore(store, corners, points, evaluate) if store is not None else None
    values, holes = evaluate_points(corners, evaluate, points, progress, grid_store, engine)
    corner_coordinates, angle = _frame(corners)
    return Plane(
        names=names,
        u=us,
        v=vs,
        metrics={name: row.reshape(len(vs), len(us)) for name, row in metrics_of(values).items()},
        about=about_of(evaluate),
        holes=_name_nonfinite_weights(holes, corners, names),
        corners=corner_coordinates,
        angle=angle,
        clamped=clamped_of(values),
    )


def _name_nonfinite_weights(
    holes: Mapping[str, int], corners: Sequence[Weights], names: Sequence[str]
) -> dict[str, int]:
    """Add to the reason 'not finite' the first tensor and model with weights that are not finite."""
    bad = [
        f"{key} of {name}" for name, weights in zip(names, corners, strict=True) if NOT_FINITE in holes
        for key, value in weights.items() if not np.isfinite(value).all() and not _is_shared(key, corners)
    ]  # fmt: skip
    explained = f"{NOT_FINITE} (because of {bad[0]})" if bad else NOT_FINITE
    return {explained if reason == NOT_FINITE else reason: count for reason, count in holes.items()}


def _is_shared(key: str, corners: Sequence[Weights]) -> bool:
    """Whether a tensor is equal in all models, as a mask with infinities is."""
    return all(np.array_equal(weights[key], corners[0][key]) for weights in corners)


def _axis(name: str, axis: tuple[float, float, int]) -> Floats:
    if not isinstance(axis, tuple | list) or len(axis) != 3:
        raise UsageError(f"{name}={axis!r}: it must be (first, last, points), e.g. {name}=(-0.5, 1.5, 21)")
    first, last, count = axis
    if isinstance(count, int) and count > MAX_GRID_POINTS:
        raise UsageError(f"{name}={axis!r}: a grid has at most {MAX_GRID_POINTS:,} points")
    if (
        not isinstance(count, int)
        or count < 2
        or not first < last
        or not (math.isfinite(first) and math.isfinite(last))
    ):
        raise UsageError(
            f"{name}={axis!r}: first must be smaller than last, with two or more points, e.g. {name}=(-0.5, 1.5, 21)"
        )
    return np.round(np.linspace(first, last, count), 12)


def _frame(corners: Sequence[Weights]) -> tuple[Floats, float]:
    names = trainable_names(corners[0])
    products = sum(
        (parameter_geometry.gram([point[name].reshape(-1) for point in corners]) for name in names), np.zeros((3, 3))
    )
    try:
        return parameter_geometry.frame(products)
    except ValueError:
        return np.full((3, 2), math.nan), math.nan
