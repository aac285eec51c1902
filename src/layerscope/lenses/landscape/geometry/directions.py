"""Planes around one model, along random directions, Hessian eigenvectors or the path of its training run.

Such a plane is a :class:`~layerscope.records.landscape.planes.Plane` through the model and one step in each direction.
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
    weights_of_all,
)

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

RANDOM_WALK_SHARES = (6 / math.pi**2, 6 / (4 * math.pi**2))  # variance in a random walk's first two directions
MIN_SECOND_SHARE = 1e-9  # below this share of the variance the path counts as straight


def random_direction(
    model: Any, *, norm: str = "filter", vectors: bool = False, seed: int = 0, number: int = 0
) -> dict[str, Array]:
    """Draw a Gaussian direction scaled like the weights, so that one step changes every filter by its own norm.

    Each tensor is drawn from the seed and its name, so adding a layer does not change the other tensors. Filters are
    slices along the first axis (outputs). Source: Li et al., NeurIPS 2018, "Visualizing the Loss Landscape of Neural
    Nets", §4.

    :param model: a live model, a file, or arrays by name.
    :param norm: what is normalized: each "filter", each "layer" (tensor), all weights ("global"), or "none".
    :param vectors: also perturb tensors with one axis (biases, norms), which otherwise stay unchanged.
    :param seed: seed for the random numbers.
    :param number: index of the direction; each index gives another direction for the same seed.
    :raises UnknownName: if there is no such normalization.
    """
    if norm not in DIRECTION_NORMS:
        raise UnknownName("normalization", norm, DIRECTION_NORMS)
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
    """Scale noise to the norms of a tensor, for each filter or as a whole."""
    if norm in ("none", "global"):
        return noise
    axes = tuple(range(1, tensor.ndim)) if norm == "filter" else None
    target, actual = (
        np.sqrt(np.square(x).sum(axis=axes, keepdims=True)) for x in (np.asarray(tensor, np.float64), noise)
    )
    return np.asarray(noise * target / np.where(actual > 0, actual, 1.0))


def _length(weights: Weights, direction: Weights) -> float:
    """Norm of the weights over the tensors that the direction changes."""
    return math.sqrt(
        sum(float(np.square(np.asarray(weights[k], np.float64)).sum()) for k in weights if np.any(direction[k]))
    )


def plane_around(
    model: Any, evaluate: Any, *, directions: Any = "filter", u: tuple[float, float, int] = (-1.0, 1.0, 21),
    v: tuple[float, float, int] | None = None, seed: int = 0, progress: Progress | None = None, store: Any = None,
    engine: str | None = None,
) -> Plane:  # fmt: skip
    """Evaluate the plane through a model along two directions.

    :param model: the model: live, a file, or arrays by name.
    :param evaluate: an evaluator, or any function from weights by name to metrics by name.
    :param directions: a normalization ("filter", "layer", …) for two random directions; or two directions as arrays by
        name, e.g. eigenvectors of the curvature from :meth:`~layerscope.TorchEvaluator.unflat`.
    :param u, v: (first, last, number of points) as for :func:`~layerscope.plane`; v defaults to u.
    :param seed: seed for random directions.
    :param progress: called after each point with (points done, total points, seconds left).
    :param store: file in which finished points are saved, so that an interrupted call can resume.
    :param engine: evaluate points in parallel, as for :func:`~layerscope.line`.
    :raises UsageError: if there are not exactly two directions.
    """
    weights = weights_of(model)
    if isinstance(directions, str):
        pair = [random_direction(weights, norm=directions, seed=seed, number=k) for k in (0, 1)]
        names = ("model", f"{directions} 1", f"{directions} 2")
    else:
        pair = [weights_of(direction) for direction in directions]
        names = ("model", "first", "second")
        if len(pair) != 2:
            raise UsageError(f"directions= has {len(pair)} items: a plane needs exactly two directions")
    ends = [combine([weights, _fill_with_zeros(direction, weights)], [1.0, 1.0]) for direction in pair]
    v = u if v is None else v
    return plane(weights, ends[0], ends[1], evaluate, u=u, v=v, names=names, progress=progress, store=store,
                 engine=engine)  # fmt: skip


def _fill_with_zeros(direction: Weights, weights: Weights) -> dict[str, Array]:
    """Extend a direction with zeros for the tensors that it does not mention."""
    unknown = [name for name in direction if name not in weights]
    if unknown:
        raise UsageError(
            f"directions= has a tensor {unknown[0]!r} that the model does not have; use the names of its tensors"
        )
    return {name: np.asarray(direction.get(name, np.zeros_like(value))) for name, value in weights.items()}


def trajectory(checkpoints: Sequence[Any], names: Sequence[str] | None = None) -> Trajectory:
    """Measure the path of a training run: distances from the start, and the plane of its two principal components.

    A random walk in many dimensions has a share 6/(π²k²) of its variance in its k-th direction: 61 %, then 15 %. A
    plane that explains no more than that shows no structure. Source: Antognini & Sohl-Dickstein, NeurIPS 2018.

    :param checkpoints: three or more models in the order of training.
    :param names: one name for each checkpoint; the default is its index.
    :raises UsageError: if there are fewer than three checkpoints, or their tensors differ.
    """
    points = weights_of_all(checkpoints) if checkpoints else []
    if len(points) < 3:
        raise UsageError(f"checkpoints= has {len(points)} items: a trajectory needs three checkpoints or more")
    point_names = tuple(names or (str(i) for i in range(len(points))))
    if len(point_names) != len(points):
        raise UsageError(f"names= has {len(point_names)} names for {len(points)} checkpoints: pass one for each")
    check_same_tensors(points, point_names)
    tensor_names = trainable_names(points[0])
    flat = np.stack(
        [np.concatenate([np.asarray(p[name], np.float64).reshape(-1) for name in tensor_names]) for p in points]
    )
    if not np.isfinite(flat).all():
        bad = [name for name, row in zip(point_names, flat, strict=True) if not np.isfinite(row).all()]
        raise UsageError(f"checkpoint {bad[0]} contains NaN or infinity: leave it out")
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
    """Evaluate the principal plane of a training run, through its last checkpoint, and project the run onto it.

    One step of u or v is one unit of weights. Where the run leaves the plane, its loss differs from the contours. The
    result contains both losses, and finding LS308 reports a large difference.

    :param checkpoints: three or more models in the order of training.
    :param evaluate: an evaluator, or any function from weights by name to metrics by name.
    :param points: number of points along each axis of the plane.
    :param margin: margin around the path, as a share of its larger extent.
    :param names: one name for each checkpoint; the default is its index.
    :param progress: called after each point with (points done, total points, seconds left).
    :param store: file in which finished points are saved, so that an interrupted call can resume.
    :raises UsageError: if there are fewer than three checkpoints, their tensors differ, or they lie on a line.
    """
    path = trajectory(checkpoints, names)
    last = weights_of(checkpoints[-1])
    if not (path.shares > MIN_SECOND_SHARE).all():
        raise UsageError("the checkpoints lie on a line, so they span no plane: use layerscope.line")
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
    """Split a vector into arrays by name; tensors that it does not contain are zero."""
    arrays, start = {name: np.zeros_like(value) for name, value in like.items()}, 0
    for name in names:
        end = start + like[name].size
        arrays[name] = vector[start:end].reshape(like[name].shape).astype(like[name].dtype)
        start = end
    return arrays
