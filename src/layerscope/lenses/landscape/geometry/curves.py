"""Curved paths of low loss between two models: Bézier curves or polygonal chains with trained control points.

Source: Garipov et al., NeurIPS 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs".
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.choices import CURVE_KINDS
from layerscope.errors import UnknownName, UsageError
from layerscope.lenses.landscape.evaluation import evaluation_data
from layerscope.lenses.landscape.evaluation.points import about_of, clamped_of, evaluate_points, metrics_of, samples_of
from layerscope.lenses.landscape.evaluation.torch_evaluator import TorchEvaluator
from layerscope.lenses.landscape.geometry.lines_and_planes import line
from layerscope.live import torch_models
from layerscope.live.outputs import run_model
from layerscope.live.user_code import translate_errors
from layerscope.records.landscape.lines import Curve, Line
from layerscope.sources.model_weights import Weights, check_same_tensors, combine, trainable_names, weights_of_all

if TYPE_CHECKING:
    from layerscope.array_types import Floats


def coefficients(t: float, points: int, kind: str) -> list[float]:
    """Weights of A, the bends and B at t: Bernstein polynomials, or linear interpolation between neighbors."""
    if kind == "bezier":
        n = points - 1
        return [math.comb(n, k) * (1 - t) ** (n - k) * t**k for k in range(points)]
    position = t * (points - 1)
    return [max(0.0, 1 - abs(position - k)) for k in range(points)]


def connect(
    a: Any, b: Any, evaluate: TorchEvaluator, train: Any, *, kind: str = "bezier", bends: int = 1, steps: int = 600,
    lr: float = 0.03, batch: int = 128, points: int = 25, seed: int = 0, names: tuple[str, str] = ("A", "B"),
) -> Curve:  # fmt: skip
    """Train a curve of low loss from A to B and compare it with the straight line.

    :param a, b: the models at the ends: live, files, or arrays by name.
    :param evaluate: a :class:`~layerscope.TorchEvaluator`, preferably with data that are not used for training.
    :param train: training data, (x, y) or batches of such pairs.
    :param kind: "bezier" for a Bézier curve, or "chain" for straight segments.
    :param bends: number of trained control points between A and B.
    :param steps: number of SGD steps (momentum 0.9), each on the loss at a random point of the curve.
    :param lr: learning rate of SGD.
    :param batch: number of training examples per step.
    :param points: number of points evaluated on the curve and on the line.
    :param seed: seed for all random numbers.
    :param names: names of the two models.
    :raises UsageError: if the models have different tensors, or an argument is invalid.
    """
    if kind not in CURVE_KINDS:
        raise UnknownName("kind of curve", kind, CURVE_KINDS)
    if not isinstance(evaluate, TorchEvaluator):
        raise UsageError(f"connect got a {type(evaluate).__name__}: training a curve needs a TorchEvaluator")
    for name, value, minimum in (("bends", bends, 1), ("steps", steps, 1), ("batch", batch, 1), ("points", points, 3)):
        if not isinstance(value, int) or value < minimum:
            raise UsageError(f"{name}={value!r}: {name} must be an integer, {minimum} or more")
    if not (isinstance(lr, int | float) and 0 < lr < math.inf):
        raise UsageError(f"lr={lr!r}: the learning rate must be a finite number above 0")
    ends = weights_of_all((a, b))
    check_same_tensors(ends, names)
    shares = [k / (bends + 1) for k in range(1, bends + 1)]
    inner = [combine(ends, [1 - share, share]) for share in shares]
    inner = _train_inner_points(
        evaluate, [ends[0], *inner, ends[1]], train, lambda t: coefficients(t, bends + 2, kind), steps, lr, batch, seed
    )
    corners = [ends[0], *inner, ends[1]]
    t = np.linspace(0, 1, points)
    values, holes = evaluate_points(corners, evaluate, [coefficients(float(x), len(corners), kind) for x in t], None)
    samples = samples_of(values)
    about = about_of(evaluate) | {"path": kind}
    curved = Line(names, t, metrics_of(values), about, holes, samples, clamped_of(values))
    straight = line(ends[0], ends[1], evaluate, points=points, names=names)
    return Curve(kind, straight, curved, tuple(inner), _relative_length(corners, kind))


def _train_inner_points(
    evaluate: TorchEvaluator, points: Sequence[Weights], data: Any, coefficients_at: Callable[[float], list[float]],
    steps: int, lr: float, batch: int, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train the inner points by SGD on the loss at Σ cᵢ(t)·pointsᵢ for uniform t, with the model in training mode.

    :raises UsageError: if the loss becomes NaN or infinite.
    """
    import torch
    from torch.func import functional_call

    evaluate.check(points)
    x, y = evaluation_data.concatenate_batches(data, evaluate.device)
    corners = [
        {k: torch.from_numpy(np.array(p[k])).to(evaluate.parameters[k]) for k in evaluate.parameters} for p in points
    ]
    inner = corners[1:-1]
    for weights in inner:
        for value in weights.values():
            value.requires_grad_(True)
    optimizer = torch.optim.SGD([v for weights in inner for v in weights.values()], lr, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    network, forward = copy.deepcopy(evaluate.model).train(), evaluate.forward

    class NetworkWithForward(torch.nn.Module):  # type: ignore[misc]
        """Combines the network and its forward function into one module, as functional_call requires."""

        def __init__(self) -> None:
            super().__init__()
            self.net = network

        def forward(self, x: Any) -> Any:
            return run_model(self.net, x, forward)

    module = NetworkWithForward()
    for m in network.modules():
        if isinstance(m, torch.nn.modules.dropout._DropoutNd):
            m.eval()
    for step in range(steps):
        c = coefficients_at(float(torch.rand((), generator=generator)))
        mixed = {k: sum(w * p[k] for w, p in zip(c, corners, strict=True)) for k in evaluate.parameters}
        chosen = torch.randint(len(x), (min(batch, len(x)),), generator=generator)
        parameters = {f"net.{real}": v for k, v in mixed.items() for real in evaluate.names[k]}
        with translate_errors("the model on the training data"):
            output = functional_call(module, parameters, (x[chosen],))
        loss = evaluate.loss.values(output, y[chosen]).mean()
        if not bool(loss.isfinite()):
            raise UsageError(f"lr={lr!r}: the loss of the curve is not finite at step {step}; try a smaller lr")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    arrays = [
        {k: torch_models.at_least_float32(v.detach()).cpu().numpy() for k, v in weights.items()} for weights in inner
    ]
    return [{**points[0], **weights} for weights in arrays]


def _relative_length(corners: Any, kind: str, pieces: int = 40) -> float:
    """Length of the curve divided by the distance between its ends."""
    names = trainable_names(corners[0])
    rows = np.stack([np.concatenate([np.asarray(p[k], np.float64).reshape(-1) for k in names]) for p in corners])
    products: Floats = rows @ rows.T
    mixes = np.array([coefficients(x, len(corners), kind) for x in np.linspace(0, 1, pieces + 1)])
    steps = np.diff(mixes, axis=0)
    length = float(np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", steps, products, steps), 0.0)).sum())
    ends = mixes[-1] - mixes[0]
    return length / math.sqrt(max(float(ends @ products @ ends), np.finfo(float).tiny))
