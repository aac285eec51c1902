"""Directions through one model: random ones normalised filter by filter, eigenvectors of the Hessian, a trajectory's.

A plane around a model is a :class:`~layerscope.records.landscape.planes.Plane` through it and two points one step away.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UnknownName, UsageError
from layerscope.lenses.landscape.evaluation.points import Progress, walking
from layerscope.lenses.landscape.geometry.lines_and_planes import plane
from layerscope.numerics import parameter_geometry
from layerscope.records.landscape.planes import Plane, Track, Trajectory
from layerscope.rules.judging import judge_landscape
from layerscope.rules.landscape_facts import Route
from layerscope.sources.model_weights import STATISTICS, Weights, check_alike, combined, learned_names, weights_of

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

FLAT = 1e-9  # share of the variance below which a path has no second direction
NORMS = ("filter", "layer", "global", "none")


def random_direction(
    model: Any, *, norm: str = "filter", vectors: bool = False, seed: int = 0, number: int = 0
) -> dict[str, Array]:
    """A Gaussian direction, scaled like the weights: one step perturbs every filter by its own norm.

    Drawn tensor by tensor from the seed and its name, so that another layer does not reshuffle the rest. Filters are
    slices along the first axis (out); tensors of one axis (biases, norms) stay unless ``vectors``. Source: Li et al.,
    NeurIPS 2018, "Visualizing the Loss Landscape of Neural Nets", §4.

    :param norm: "filter", "layer" (tensor by tensor), "global", or "none".
    :raises UnknownName: another normalisation.
    """
    if norm not in NORMS:
        raise UnknownName("normalisation", norm, NORMS)
    weights, found = weights_of(model), {}
    for name, tensor in weights.items():
        if name.endswith(STATISTICS) or (tensor.ndim < 2 and not vectors):
            found[name] = np.zeros_like(tensor)
            continue
        key = int.from_bytes(hashlib.sha256(f"{seed}/{number}/{name}".encode()).digest()[:8], "big")
        drawn = np.random.default_rng(key).standard_normal(tensor.shape)
        found[name] = _scaled(drawn, tensor, norm if tensor.ndim > 1 else "layer").astype(tensor.dtype)
    if norm == "global":
        scale = _length(weights, found) / max(_length(found, found), np.finfo(float).tiny)
        found = {name: (value * scale).astype(value.dtype) for name, value in found.items()}
    return found


def _scaled(drawn: Floats, tensor: Array, norm: str) -> Floats:
    if norm in ("none", "global"):
        return drawn
    axes = tuple(range(1, tensor.ndim)) if norm == "filter" else None
    wide = np.asarray(tensor, np.float64)
    own, new = (np.sqrt(np.square(x).sum(axis=axes, keepdims=True)) for x in (wide, drawn))
    return np.asarray(drawn * own / np.where(new > 0, new, 1.0))


def _length(of: Weights, where: Weights) -> float:
    """‖of‖ over the tensors that are not zero in ``where``."""
    return math.sqrt(sum(float(np.square(np.asarray(of[k], np.float64)).sum()) for k in of if np.any(where[k])))


def plane_around(
    model: Any, evaluate: Any, *, directions: Any = "filter", u: tuple[float, float, int] = (-1.0, 1.0, 21),
    v: tuple[float, float, int] | None = None, seed: int = 0, progress: Progress | None = None, store: Any = None,
    engine: str | None = None,
) -> Plane:  # fmt: skip
    """The plane through a model along two directions; ``u`` and ``v`` as for :func:`~layerscope.plane`, v as u.

    :param directions: a normalisation of two random ones ("filter", "layer", …), which are orthogonalised before it;
        or two directions, arrays by name (:meth:`~layerscope.TorchEvaluator.unflat` of the curvature's vectors).
    :raises UsageError: not two directions.
    """
    weights = weights_of(model)
    if isinstance(directions, str):
        pair = [random_direction(weights, norm=directions, seed=seed, number=k) for k in (0, 1)]
        names = ("model", f"{directions} 1", f"{directions} 2")
    else:
        pair = [weights_of(each) for each in directions]
        names = ("model", "first", "second")
        if len(pair) != 2:
            raise UsageError(f"a plane takes two directions, not {len(pair)}")
    ends = [combined([weights, _filled(each, weights)], [1.0, 1.0]) for each in pair]
    v = u if v is None else v
    return plane(weights, ends[0], ends[1], evaluate, u=u, v=v, names=names, progress=progress, store=store,
                 engine=engine)  # fmt: skip


def _filled(direction: Weights, weights: Weights) -> dict[str, Array]:
    """With zeros for the tensors that it leaves alone."""
    unknown = [name for name in direction if name not in weights]
    if unknown:
        raise UsageError(f"a direction has {unknown[0]}, which the model has not")
    return {name: np.asarray(direction.get(name, np.zeros_like(value))) for name, value in weights.items()}


def trajectory(checkpoints: Sequence[Any], names: Sequence[str] | None = None) -> Trajectory:
    """The path of a run: distances from the start, and its principal plane by the T × T Gram matrix.

    A random walk in many dimensions has 6/(π²k²) of its variance in its k-th direction, 61 % and 15 %: a plane that
    explains no more shows no structure. Source: Antognini & Sohl-Dickstein, NeurIPS 2018.

    :raises UsageError: fewer than three checkpoints, or of different kinds.
    """
    points = [weights_of(each) for each in checkpoints]
    if len(points) < 3:
        raise UsageError(f"a trajectory has three checkpoints or more, not {len(points)}")
    told = tuple(names or (str(i) for i in range(len(points))))
    if len(told) != len(points):
        raise UsageError(f"{len(points)} checkpoints and {len(told)} names")
    check_alike(points, told)
    learned = learned_names(points[0])
    flat = [np.concatenate([np.asarray(p[name], np.float64).reshape(-1) for name in learned]) for p in points]
    if not np.isfinite(np.stack(flat)).all():
        raise UsageError("a checkpoint has values that are not finite")
    rows = np.stack(flat) - flat[-1]
    mixes, shares = parameter_geometry.principal(parameter_geometry.gram(list(rows)))
    axes = mixes @ rows
    where = rows @ axes.T
    off = np.sqrt(np.maximum(np.square(rows).sum(1) - np.square(where).sum(1), 0.0))
    steps = np.linalg.norm(np.diff(np.stack(flat), axis=0), axis=1)
    start = np.linalg.norm(np.stack(flat) - flat[0], axis=1)
    walk = (6 / math.pi**2, 6 / (4 * math.pi**2))
    pair = tuple(_unflat(axis, points[-1], learned) for axis in axes)
    findings = judge_landscape(route=Route((float(shares[0]), float(shares[1])), walk))
    return Trajectory(told, start, steps, where, shares, walk, off, (pair[0], pair[1]), findings)


def plane_of_path(
    checkpoints: Sequence[Any], evaluate: Any, *, points: int = 21, margin: float = 0.25,
    names: Sequence[str] | None = None, progress: Progress | None = None, store: Any = None,
) -> Plane:  # fmt: skip
    """The plane of most of a run's variance, through its last checkpoint, with its path and how true the plane is.

    One step of u or v is one unit of weights. Where the path leaves the plane the contour is not its loss: the record
    has both, and LS308 says where they differ.

    :param checkpoints: three or more, in order.
    :param margin: room around the path, of its extent.
    :raises UsageError: fewer than three, or of different kinds; a path of one direction.
    """
    found = trajectory(checkpoints, names)
    last = weights_of(checkpoints[-1])
    if not (found.shares > FLAT).all():
        raise UsageError("the checkpoints lie on a line: layerscope.line shows it")
    low, high = found.coordinates.min(0), found.coordinates.max(0)
    room = margin * max(high - low)
    u, v = ((float(a - room), float(b + room), points) for a, b in zip(low, high, strict=True))
    ends = [combined([last, axis], [1.0, 1.0]) for axis in found.axes]
    what = (found.names[-1], "first direction", "second direction")
    plane_ = plane(last, ends[0], ends[1], evaluate, u=u, v=v, names=what, progress=progress, store=store)
    own = [_loss_of(evaluate, [weights_of(each)], [1.0]) for each in checkpoints]
    with walking([last, *ends], evaluate) as at:
        below = [_finite(at([1 - float(x + y), float(x), float(y)])) for x, y in found.coordinates]
    shares = (float(found.shares[0]), float(found.shares[1]))
    track = Track(found.names, found.coordinates, found.off_plane, np.array(own), np.array(below), shares, found.walk)
    spread = float(np.ptp(track.losses)) if np.isfinite(track.losses).all() else 0.0
    findings = judge_landscape(route=Route(track.shares, track.walk, track.gap, spread))
    return replace(plane_, track=track, findings=findings)


def _loss_of(evaluate: Any, points: Sequence[Weights], coefficients: Sequence[float]) -> float:
    with walking(points, evaluate) as at:
        return _finite(at(coefficients))


def _finite(value: Any) -> float:
    return float(value.metrics.get("loss", math.nan))


def _unflat(vector: Floats, like: Weights, learned: Sequence[str]) -> dict[str, Array]:
    found, at = {name: np.zeros_like(value) for name, value in like.items()}, 0
    for name in learned:
        found[name] = vector[at : at + like[name].size].reshape(like[name].shape).astype(like[name].dtype)
        at += like[name].size
    return found
