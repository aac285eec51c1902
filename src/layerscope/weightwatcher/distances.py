"""Distances of two models, layer by layer, and metrics of vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.numerics import localization
from layerscope.tensor_names import strip_wrapper_prefixes
from layerscope.weightwatcher.layers import Layer, as_float64, filtered, stack_of
from layerscope.weightwatcher.names import EUCLIDEAN, RAW, SUPPORTED, UNKNOWN


def compared(layers: Sequence[Layer], others: Sequence[Layer], method: str, wanted: Any) -> list[dict[str, Any]]:
    """A row per layer that both models have, matched by name.

    :raises UsageError: they have none in common.
    """
    theirs = {strip_wrapper_prefixes(layer.longname): layer for layer in others}
    rows = []
    for one in filtered(layers, wanted):
        other = theirs.get(strip_wrapper_prefixes(one.longname))
        if one.type not in SUPPORTED or other is None or other.shape != one.shape:
            continue
        delta_b, b_shape = 0.0, UNKNOWN  # type: float, Any
        if method == RAW and one.bias is not None and other.bias is not None and one.type == "dense":
            a, b = as_float64(one.bias), as_float64(other.bias)
            if a.shape == b.shape:
                delta_b, b_shape = float(np.linalg.norm(a - b)), a.shape
        n, m, _ = one.sizes
        rows.append({"method": method, "layer_id": one.id, "name": one.name, "delta_W": distance(one, other, method),
                     "delta_b": delta_b, "M": m, "N": n, "b_shape": b_shape, "longname": one.longname})  # fmt: skip
    if not rows:
        raise UsageError("the models have no layer of the same name and shape")
    return rows


def distance(one: Layer, other: Layer, method: str) -> float:
    """Of one layer, by the method's definition."""
    if method == RAW:
        return float(np.linalg.norm(as_float64(one.weight) - as_float64(other.weight)))
    found = []
    for a, b in zip(stack_of(one)[1], stack_of(other)[1], strict=True):
        x, y = a.astype(np.float64), b.astype(np.float64)
        if method == EUCLIDEAN:
            found.append(float(np.linalg.norm(x - y)))
        else:
            scale = math.sqrt(float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))
            found.append(float(np.linalg.norm(x.T @ y)) / scale if scale > 0 else 0.0)
    return fmean(found)


def localized(vectors: Any) -> list[dict[str, Any]]:
    """Length, entropies and localisation of each vector."""
    try:
        many = [vectors] if getattr(vectors, "ndim", 0) == 1 else [as_float64(v) for v in vectors]
    except (TypeError, ValueError):
        raise UsageError(f"vector_metrics takes vectors, not {vectors!r:.60}") from None
    rows = []
    for vector in many:
        v = as_float64(vector)
        if v.ndim != 1 or not v.any():
            raise UsageError(f"vector_metrics takes vectors that are not zero, not one of shape {v.shape}")
        gauss = math.exp(-float(np.linalg.norm(v)) / 2) / math.sqrt(2 * math.pi)
        rows.append({"length": len(v), "entropy": gauss, "discrete_entropy": localization.entropy(v),
                     "localization_ratio": localization.localization_ratio(v),
                     "participation_ratio": localization.participation_ratio(v)})  # fmt: skip
    return rows
