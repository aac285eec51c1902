"""Distances between the layers of two models, and metrics of vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.numerics import localization
from layerscope.tensor_names import strip_wrapper_prefixes
from layerscope.weightwatcher.layers import Layer, as_float64, select_layers, stack_of
from layerscope.weightwatcher.names import EUCLIDEAN, RAW, SUPPORTED, UNKNOWN


def compare_layers(
    layers: Sequence[Layer], other_layers: Sequence[Layer], method: str, selection: Any
) -> list[dict[str, Any]]:
    """Return one row for each layer that both models have, matched by name and shape.

    :raises UsageError: the models have no layer in common.
    """
    others_by_name = {strip_wrapper_prefixes(layer.longname): layer for layer in other_layers}
    rows = []
    for first in select_layers(layers, selection):
        second = others_by_name.get(strip_wrapper_prefixes(first.longname))
        if first.type not in SUPPORTED or second is None or second.shape != first.shape:
            continue
        delta_b, b_shape = 0.0, UNKNOWN  # type: float, Any
        if method == RAW and first.bias is not None and second.bias is not None and first.type == "dense":
            a, b = as_float64(first.bias), as_float64(second.bias)
            if a.shape == b.shape:
                delta_b, b_shape = float(np.linalg.norm(a - b)), a.shape
        n, m, _ = first.sizes
        rows.append(
            {
                "method": method,
                "layer_id": first.id,
                "name": first.name,
                "delta_W": layer_distance(first, second, method),
                "delta_b": delta_b,
                "M": m,
                "N": n,
                "b_shape": b_shape,
                "longname": first.longname,
            }
        )
    if not rows:
        raise UsageError("the models have no layer with the same name and shape; compare models of one architecture")
    return rows


def layer_distance(first: Layer, second: Layer, method: str) -> float:
    """Return the distance (or CKA similarity) between a layer of two models."""
    if method == RAW:
        return float(np.linalg.norm(as_float64(first.weight) - as_float64(second.weight)))
    distances = []
    for a, b in zip(stack_of(first)[1], stack_of(second)[1], strict=True):
        x, y = a.astype(np.float64), b.astype(np.float64)
        if method == EUCLIDEAN:
            distances.append(float(np.linalg.norm(x - y)))
        else:
            scale = math.sqrt(float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))
            distances.append(float(np.linalg.norm(x.T @ y)) / scale if scale > 0 else 0.0)
    return fmean(distances)


def measure_vectors(vectors: Any) -> list[dict[str, Any]]:
    """Return length, entropies and localization of each vector.

    :raises UsageError: the argument holds no vectors, or a vector of zeros.
    """
    try:
        arrays = [vectors] if getattr(vectors, "ndim", 0) == 1 else [as_float64(v) for v in vectors]
    except (TypeError, ValueError):
        raise UsageError(f"vector_metrics takes a vector, a list of vectors or a matrix, not {vectors!r:.60}") from None
    rows = []
    for vector in arrays:
        v = as_float64(vector)
        if v.ndim != 1 or not v.any():
            raise UsageError(f"vector_metrics takes one-dimensional vectors that are not zero; found shape {v.shape}")
        gauss = math.exp(-float(np.linalg.norm(v)) / 2) / math.sqrt(2 * math.pi)
        rows.append({"length": len(v), "entropy": gauss, "discrete_entropy": localization.entropy(v),
                     "localization_ratio": localization.localization_ratio(v),
                     "participation_ratio": localization.participation_ratio(v)})  # fmt: skip
    return rows
