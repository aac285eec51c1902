"""The gradient of the loss at a point, statistics of batch norms being functions of the weights where the policy makes
them so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def through(norms: Sequence[Any], policy: str) -> Iterator[dict[Any, tuple[Any, Any]]]:
    """Inside, norms compute what they do anyway, and gradients flow through their statistics.

    With "recompute" a pass while the mapping is being filled takes the statistics of its inputs; later ones use them.
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
    def forward(x: Any) -> Any:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        if norm not in found:
            count = x.numel() // x.shape[1]
            mean, spread = x.mean(axes), x.var(axes, correction=0)
            found[norm] = mean, spread * (count / max(count - 1, 1))  # as running statistics are kept
        else:
            mean, spread = found[norm]
        shape = [1, -1] + [1] * (x.dim() - 2)
        out = (x - mean.reshape(shape)) / (spread.reshape(shape) + norm.eps).sqrt()
        return out if norm.weight is None else out * norm.weight.reshape(shape) + norm.bias.reshape(shape)

    return forward


def of(evaluate: Any, calibrated: bool) -> dict[str, Any]:
    """∂L/∂θ by name, tensors, of the mean loss over all examples, where the evaluator stands."""
    import torch

    parameters = list(evaluate.parameters.values())
    for p in parameters:
        p.requires_grad_(True)
    try:
        with torch.enable_grad(), through(evaluate.norms.every, evaluate.bn if calibrated else ""):
            if calibrated:
                evaluate.run(evaluate.calibrate)
            every = [
                evaluate.loss.values(evaluate.run(x), y)
                for x, y in zip(evaluate.x.split(evaluate.batch), evaluate.y.split(evaluate.batch), strict=True)
            ]
            kept = evaluate.loss.kept(evaluate.y)
            count = sum(len(values) for values in every) if kept is None else int(kept.sum())
            total = torch.cat(every).sum() / count
            found = torch.autograd.grad(total, parameters, allow_unused=True)
    finally:
        for p in parameters:
            p.requires_grad_(False)
    return {name: g for name, g in zip(evaluate.parameters, found, strict=True) if g is not None}
