"""Gradient of the mean loss at a point, including the path through recomputed batch-norm statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from layerscope.lenses.landscape.evaluation.batch_norm import BatchNormPolicy
from layerscope.lenses.landscape.evaluation.evaluation_data import EvaluationData
from layerscope.lenses.landscape.evaluation.fast_path import FastPath
from layerscope.live.user_code import require_gradient

Statistics = dict[Any, tuple[Any, Any]]  # norm → (mean, variance) of each channel


def mean_loss_gradient(path: FastPath, data: EvaluationData, batch_norm: BatchNormPolicy) -> dict[str, Any]:
    """Return ∂L/∂θ as tensors by name, for the mean loss over all examples at the model's current weights."""
    import torch

    vector, norms = path.vector, batch_norm.norms
    parameters = [p for name in vector.parameters for p in vector.all_tied(name)]
    for p in parameters:
        p.requires_grad_(True)
    try:
        with torch.enable_grad(), _differentiable_statistics(norms.tracked if batch_norm.recomputes else ()):
            if batch_norm.recomputes:
                with norms.training(1.0):
                    path.run(data.calibration)
            losses = [data.loss.values(path.run(x), y) for x, y in data.batches()]
            count = data.labeled_count(sum(len(values) for values in losses))
            mean = require_gradient(torch.cat(losses).sum() / count)
            gradients = iter(torch.autograd.grad(mean, parameters, allow_unused=True))
    finally:
        for p in parameters:
            p.requires_grad_(False)
    by_name = {
        name: [g for _ in vector.all_tied(name) if (g := next(gradients)) is not None] for name in vector.parameters
    }
    return {name: sum(parts) for name, parts in by_name.items() if parts}


@contextmanager
def _differentiable_statistics(norms: Sequence[Any]) -> Iterator[None]:
    """Make batch-norm statistics differentiable inside the context, without changing the outputs.

    A pass in training mode records the statistics of its inputs, and later passes use them. If a norm is called several
    times, the last call counts.
    """
    statistics: Statistics = {}
    for norm in norms:
        norm.forward = _differentiable_forward(norm, statistics)
    try:
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


def _differentiable_forward(norm: Any, statistics: Statistics) -> Callable[[Any], Any]:
    from torch.nn.modules.instancenorm import _InstanceNorm

    by_example = isinstance(norm, _InstanceNorm)  # normalizes each example, stores the mean

    def forward(x: Any) -> Any:
        axes = [*range(2, x.dim()), *([] if by_example else [0])]
        shape = [1, -1] + [1] * (x.dim() - 2)
        if norm.training:
            mean, variance = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
            count = x.numel() // mean.numel()
            unbiased = variance * (count / max(count - 1, 1))
            statistics[norm] = mean.mean(0).reshape(-1), unbiased.mean(0).reshape(-1)
        else:
            mean, variance = (part.reshape(shape) for part in statistics[norm])
        out = (x - mean) / (variance + norm.eps).sqrt()
        out = out if norm.weight is None else out * norm.weight.reshape(shape)
        return out if norm.bias is None else out + norm.bias.reshape(shape)

    return forward
