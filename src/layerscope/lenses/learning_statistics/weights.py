"""Weights that a module computes before each forward pass: parametrizations, pruning, weight and spectral norm."""

from __future__ import annotations

from typing import Any

from layerscope.sources.readers.torch_module import computed_in_evaluation


def is_computed(module: Any) -> bool:
    """Is the module's weight computed from other parameters?"""
    from torch import nn

    return not isinstance(module._parameters.get("weight"), nn.Parameter)


def computed_weight(module: Any) -> Any:
    """Return the weight that the forward pass uses; one that a hook sets is that of the last pass."""
    if "weight" in getattr(module, "parametrizations", {}):
        return computed_in_evaluation(module, "weight")
    return getattr(module, "weight", None)


def weight_of(module: Any) -> Any:
    """Return the module's weight, stored or computed, without its graph."""
    return (computed_weight(module) if is_computed(module) else module.weight).detach()
