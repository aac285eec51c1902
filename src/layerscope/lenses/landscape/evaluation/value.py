"""Result of evaluating one point in weight space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerscope.array_types import Floats


@dataclass(frozen=True)
class Value:
    """Metrics of one point, averaged over the examples; NaN if any output is not finite."""

    metrics: Mapping[str, float]
    samples: Floats = field(repr=False)  # (n,) loss of each example; empty if unknown
    clamped: int = 0  # number of negative variances that were set to zero
