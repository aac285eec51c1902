"""The columns of a layer that need no weights: names, shapes and sizes from the header."""

from __future__ import annotations

from typing import Any

from layerscope.numerics.matrices import dimensions
from layerscope.records.layers import LayerReport

SIZE_COLUMNS = (
    "layer_id",
    "name",
    "layer_type",
    "shape",
    "N",
    "M",
    "Q",
    "rf",
    "num_evals",
    "dtype",
    "params",
    "skipped",
)


def size_columns(layer: LayerReport, conv: str) -> dict[str, Any]:
    """Return the columns that need no weights; N, M, Q and rf are None for tensors that are not read as matrices."""
    ref = layer.ref
    spectrum = layer.spectrum
    if spectrum is not None:
        k, n, m = spectrum.k, spectrum.n, spectrum.m
    elif ref.axes:
        k, n, m = dimensions(ref, conv)
    else:
        k = n = m = 0
    return {
        "layer_id": ref.index,
        "name": layer.name,
        "layer_type": ref.kind,
        "shape": list(ref.shape),
        "N": n or None,
        "M": m or None,
        "Q": n / m if m else None,
        "rf": k or None,
        "num_evals": k * m if m else None,
        "dtype": ref.dtype,
        "params": ref.params,
        "skipped": layer.skipped,
    }
