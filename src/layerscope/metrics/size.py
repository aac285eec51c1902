"""The size of a layer's matrices."""

from __future__ import annotations

from layerscope.metrics import metric
from layerscope.metrics.references import HTSR
from layerscope.numerics.spectrum import Spectrum


@metric(unit="", ref=HTSR, fmt="d", over_layers="", label="evals")
def num_evals(weight: Spectrum) -> int:
    """Number of eigenvalues, k·m: the number of pooled matrices times the smaller side of one."""
    return len(weight.evals)
