"""DoRA magnitudes: the norm assigned to each output of an adapted weight.

W′ = m · (W + s·B·A) / ‖W + s·B·A‖, norms over each output. Source: Liu et al., ICML 2024 (arXiv 2402.09353).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

MAGNITUDE_NAME = re.compile(
    r"(?P<stem>.+)\.lora_magnitude_vector(\.(?!weight$)(?P<adapter>[^.]+))?(\.weight)?$", re.DOTALL
)


def renormalize(weight: Floats, magnitude: Array, out_axis: int) -> Floats:
    """Scale each output of the weight to its magnitude; an output with norm zero stays zero."""
    axes = tuple(axis for axis in range(weight.ndim) if axis != out_axis)
    norms = np.sqrt(np.square(weight).sum(axis=axes, keepdims=True))
    scaled: Floats = weight * (magnitude.astype(np.float64).reshape(norms.shape) / np.where(norms > 0, norms, 1))
    return scaled
