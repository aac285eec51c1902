"""Expected distance between two freshly initialized models with the same tensor shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from layerscope.sources.several_models import Tensor

INITS = ("torch", "he", "xavier")


def input_counts(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the fan-in of each module by name; initializers use it for the weight and the bias."""
    counts: dict[str, int] = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) >= 2 and tensor.ref.axes:
            sizes = dict(zip(tensor.ref.axes, tensor.shape, strict=False))
            counts[name.rpartition(".")[0]] = max(1, math.prod(tensor.shape) // max(1, sizes.get("o", 1)))
    return counts


def expected_squared_distance(tensor: Tensor, init: str, fans: Mapping[str, int]) -> float:
    """Return E‖a − b‖² for two independent initializations of a tensor: twice the variance, summed over its entries.

    torch: U(±1/√fan_in) for weights and biases, N(0, 1) for embeddings, constants for norms. he: N(0, 2/fan_in) for
    weights, zero biases. xavier: variance 2/(fan_in + fan_out) for weights, zero biases.
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
