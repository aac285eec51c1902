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

from layerscope.choices import DIRECTION_NORMS
from layerscope.errors import UnknownName, UsageError
from layerscope.lenses.landscape.evaluation.points import Progress, walking
from layerscope.lenses.landscape.geometry.lines_and_planes import plane
from layerscope.numerics import parameter_geometry
from layerscope.records.landscape.planes import Plane, Track, Trajectory
from layerscope.rules.judging import judge_landscape
from layerscope.rules.landscape_facts import Route
from layerscope.sources.model_weights import (
    RUNNING_STATISTICS,
    Weights,
    check_same_tensors,
    combine,
    trainable_names,
    weights_of,
)

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

RANDOM_WALK_SHARES = (6 / math.pi**2, 6 / (4 * math.pi**2))  # of its variance in its first two directions
MIN_SECOND_SHARE = 1e-9  # share of the variance below which a path has no second direction


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
    if norm not in DIRECTION_NORMS:
        raise UnknownName("normalisation", norm, DIRECTION_NORMS)
    weights, direction = weights_of(model), {}
    for name, tensor in weights.items():
        if name.endswith(RUNNING_STATISTICS) or (tensor.ndim < 2 and not vectors):
            direction[name] = np.zeros_like(tensor)
            continue
        tensor_seed = int.from_bytes(hashlib.sha256(f"{seed}/{number}/{name}".encode()).digest()[:8], "big")
        noise = np.random.default_rng(tensor_seed).standard_normal(tensor.shape)
        direction[name] = _scale_like(tensor, noise, norm if tensor.ndim > 1 else "layer").astype(tensor.dtype)
    if norm == "global":
        scale = _length(weights, direction) / max(_length(direction, direction), np.finfo(float).tiny)
        direction = {name: (value * scale).astype(value.dtype) for name, value in direction.items()}
    return direction


def _scale_like(tensor: Array, noise: Floats, norm: str) -> Floats:
    """Noise with the lengths of a tensor, filter by filter or as a whole."""
    if norm in ("none", "global"):
        return noise
    axes = tuple(range(1, tensor.ndim)) if norm == "filter" else None
    target, actual = (
        np.sqrt(np.square(x).sum(axis=axes, keepdims=True)) for x in (np.asarray(tensor, np.float64), noise)
    )
    return np.asarray(noise * target / np.where(actual > 0, actual, 1.0))


def _length(weights: Weights, direction: Weights) -> float:
    """‖weights‖ over the tensors in which the direction is not zero."""
    return math.sqrt(
        sum(float(np.square(np.asarray(weights[k], np.float64)).sum()) for k in weights if np.any(direction[k]))
    )


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
        pair = [weights_of(direction) for direction in directions]
        names = ("model", "first", "second")
        if len(pair) != 2:
            raise UsageError(f"a plane takes two directions, not {len(pair)}")
    ends = [combine([weights, _fill_with_zeros(direction, weights)], [1.0, 1.0]) for direction in pair]
    v = u if v is None else v
    return plane(weights, ends[0], ends[1], evaluate, u=u, v=v, names=names, progress=progress, store=store,
                 engine=engine)  # fmt: skip


def _fill_with_zeros(direction: Weights, weights: Weights) -> dict[str, Array]:
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
    points = [weights_of(checkpoint) for checkpoint in checkpoints]
    if len(points) < 3:
        raise UsageError(f"a trajectory has three checkpoints or more, not {len(points)}")
    point_names = tuple(names or (str(i) for i in range(len(points))))
    if len(point_names) != len(points):
        raise UsageError(f"{len(points)} checkpoints and {len(point_names)} names")
    check_same_tensors(points, point_names)
    tensor_names = trainable_names(points[0])
    flat = np.stack(
        [np.concatenate([np.asarray(p[name], np.float64).reshape(-1) for name in tensor_names]) for p in points]
    )
    if not np.isfinite(flat).all():
        raise UsageError("a checkpoint has values that are not finite")
    rows = flat - flat[-1]
    mixes, shares = parameter_geometry.principal(parameter_geometry.gram(list(rows)))
    axes = mixes @ rows
    coordinates = rows @ axes.T
    first_axis, second_axis = (_unflatten(axis, points[-1], tensor_names) for axis in axes)
    return Trajectory(
        names=point_names,
        from_start=np.linalg.norm(flat - flat[0], axis=1),
        steps=np.linalg.norm(np.diff(flat, axis=0), axis=1),
        coordinates=coordinates,
        shares=shares,
        walk=RANDOM_WALK_SHARES,
        off_plane=np.sqrt(np.maximum(np.square(rows).sum(1) - np.square(coordinates).sum(1), 0.0)),
        axes=(first_axis, second_axis),
        findings=judge_landscape(route=Route((float(shares[0]), float(shares[1])), RANDOM_WALK_SHARES)),
    )


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
    path = trajectory(checkpoints, names)
    last = weights_of(checkpoints[-1])
    if not (path.shares > MIN_SECOND_SHARE).all():
        raise UsageError("the checkpoints lie on a line: layerscope.line shows it")
    low, high = path.coordinates.min(0), path.coordinates.max(0)
    room = margin * max(high - low)
    u, v = ((float(a - room), float(b + room), points) for a, b in zip(low, high, strict=True))
    ends = [combine([last, axis], [1.0, 1.0]) for axis in path.axes]
    corner_names = (path.names[-1], "first direction", "second direction")
    empty_plane = plane(last, ends[0], ends[1], evaluate, u=u, v=v, names=corner_names, progress=progress, store=store)
    losses = [_loss_at(evaluate, [weights_of(checkpoint)], [1.0]) for checkpoint in checkpoints]
    with walking([last, *ends], evaluate) as value_at:
        projected_losses = [_loss_or_nan(value_at([1 - float(x + y), float(x), float(y)])) for x, y in path.coordinates]
    track = Track(
        names=path.names,
        where=path.coordinates,
        off=path.off_plane,
        losses=np.array(losses),
        below=np.array(projected_losses),
        shares=(float(path.shares[0]), float(path.shares[1])),
        walk=path.walk,
    )
    spread = float(np.ptp(track.losses)) if np.isfinite(track.losses).all() else 0.0
    findings = judge_landscape(route=Route(track.shares, track.walk, track.gap, spread))
    return replace(empty_plane, track=track, findings=findings)


def _loss_at(evaluate: Any, points: Sequence[Weights], coefficients: Sequence[float]) -> float:
    with walking(points, evaluate) as value_at:
        return _loss_or_nan(value_at(coefficients))


def _loss_or_nan(value: Any) -> float:
    return float(value.metrics.get("loss", math.nan))


def _unflatten(vector: Floats, like: Weights, names: Sequence[str]) -> dict[str, Array]:
    """Arrays by name of a vector of some tensors one after the other; zeros of the others."""
    arrays, start = {name: np.zeros_like(value) for name, value in like.items()}, 0
    for name in names:
        end = start + like[name].size
        arrays[name] = vector[start:end].reshape(like[name].shape).astype(like[name].dtype)
        start = end
    return arrays
