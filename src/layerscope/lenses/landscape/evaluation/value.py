"""The value of one point of parameter space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerscope.array_types import Floats


@dataclass(frozen=True)
class Value:
    """Metrics of one point, means over the examples; NaN where an output is not finite."""

    metrics: Mapping[str, float]
    samples: Floats = field(repr=False)  # (n,) loss of each example; empty where the evaluator gives none
    clamped: int = 0  # variances below zero that were set to zero
