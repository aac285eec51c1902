"""How a quantity changes over the depth of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import median

from layerscope.records.layers import LayerReport

MIN_LAYERS_FOR_SLOPE = 5


def slope(model: Sequence[LayerReport], metric: str) -> tuple[float, int] | None:
    """Return the slope of log₁₀ of a metric over depth, and the number of layers used.

    The slope, in decades per layer, is the median of the slopes between all pairs of layers (Theil 1950, Sen 1968).
    Returns None if fewer than five layers have a positive value.
    """
    values = [math.log10(value) for layer in model if (value := float(layer.metrics.get(metric, 0.0))) > 0]
    if len(values) < MIN_LAYERS_FOR_SLOPE:
        return None
    return median((b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(values), 2)), len(values)


def has_norms(model: Sequence[LayerReport]) -> bool:
    """Return whether the model contains normalization layers."""
    return any(layer.ref.kind == "norm" for layer in model)


def describe_slope(slope_and_layers: tuple[float, int], metric: str) -> str:
    """Describe a slope in words, with the number of layers that it was measured on."""
    per_layer, layers = slope_and_layers
    return (
        f"{metric} changes by a factor of {10**per_layer:.3g} per layer over {layers} layers "
        f"({per_layer:+.2f} decades per layer)"
    )
