"""The gradient of the loss at a point, statistics of batch norms being functions of the weights where the policy makes
them so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from layerscope.sources._strangers import checked


@contextmanager
def through(norms: Sequence[Any], policy: str) -> Iterator[dict[Any, tuple[Any, Any]]]:
    """Inside, norms compute what they do anyway, and gradients flow through their statistics.

    With "recompute" a pass in training mode takes the statistics of its inputs, of several calls those of the last;
    later passes use them.
    """
    found: dict[Any, tuple[Any, Any]] = {}
    if policy == "recompute":
        for norm in norms:
            norm.forward = _forward_of(norm, found)
    try:
        yield found
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


def _forward_of(norm: Any, found: dict[Any, tuple[Any, Any]]) -> Any:
    from torch.nn.modules.instancenorm import _InstanceNorm

    alone = isinstance(norm, _InstanceNorm)  # each example by itself; what is kept is their mean

    def forward(x: Any) -> Any:
        axes = [*range(2, x.dim()), *([] if alone else [0])]
        shape = [1, -1] + [1] * (x.dim() - 2)
        if norm.training:
            mean, spread = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
            count = x.numel() // mean.numel()
            found[norm] = mean.mean(0).reshape(-1), (spread * (count / max(count - 1, 1))).mean(0).reshape(-1)
        else:
            mean, spread = (each.reshape(shape) for each in found[norm])
        out = (x - mean) / (spread + norm.eps).sqrt()
        out = out if norm.weight is None else out * norm.weight.reshape(shape)
        return out if norm.bias is None else out + norm.bias.reshape(shape)

    return forward


def of(evaluate: Any, calibrated: bool) -> dict[str, Any]:
    """∂L/∂θ by name, tensors, of the mean loss over all examples, where the evaluator stands."""
    import torch

    parameters = [p for each in evaluate.parameters for p in evaluate.tied(each)]
    for p in parameters:
        p.requires_grad_(True)
    try:
        with torch.enable_grad(), through(evaluate.norms.every, evaluate.bn if calibrated else ""):
            if calibrated:
                with evaluate.norms.training(1.0):
                    evaluate.run(evaluate.calibrate)
            every = [
                evaluate.loss.values(evaluate.run(x), y)
                for x, y in zip(evaluate.x.split(evaluate.batch), evaluate.y.split(evaluate.batch), strict=True)
            ]
            kept = evaluate.loss.kept(evaluate.y)
            count = sum(len(values) for values in every) if kept is None else int(kept.sum())
            total = checked(torch.cat(every).sum() / count)
            found = torch.autograd.grad(total, parameters, allow_unused=True)
    finally:
        for p in parameters:
            p.requires_grad_(False)
    each = iter(found)
    parts = {name: [g for _ in evaluate.tied(name) if (g := next(each)) is not None] for name in evaluate.parameters}
    return {name: sum(part) for name, part in parts.items() if part}
