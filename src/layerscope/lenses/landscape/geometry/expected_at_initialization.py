"""The expected distance of two freshly initialized models of the same shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from layerscope.sources.several_models import Tensor

INITS = ("torch", "he", "xavier")


def input_counts(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Inputs of each unit of a module, by the module's name: what its bias is drawn by too."""
    counts: dict[str, int] = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) >= 2 and tensor.ref.axes:
            sizes = dict(zip(tensor.ref.axes, tensor.shape, strict=False))
            counts[name.rpartition(".")[0]] = max(1, math.prod(tensor.shape) // max(1, sizes.get("o", 1)))
    return counts


def expected_squared_distance(tensor: Tensor, init: str, fans: Mapping[str, int]) -> float:
    """E‖a − b‖² of two fresh copies of a tensor: twice its entries' variance, summed.

    torch: U(±1/√fan_in) of weights and biases, N(0, 1) of embeddings, constants of norms; he: N(0, 2/fan_in); xavier:
    variance 2/(fan_in + fan_out), biases zero.
    """
    module = tensor.name.rpartition(".")[0]
    size = math.prod(tensor.shape)
    if tensor.ref.kind == "embedding":
        return 2.0 * size
    if len(tensor.shape) < 2:
        is_bias = init == "torch" and tensor.name.endswith("bias") and module in fans
        return 2.0 * size / (3 * fans[module]) if is_bias else 0.0
    fan_in = fans.get(module, 1)
    fan_out = max(1, size // fan_in) * math.prod(tensor.shape[2:])
    variance = {"torch": 1 / (3 * fan_in), "he": 2 / fan_in, "xavier": 2 / (fan_in + fan_out)}[init]
    return 2.0 * size * variance
