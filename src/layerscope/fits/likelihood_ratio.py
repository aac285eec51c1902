"""Likelihood ratios of the power law and of other tails."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Floats
    from layerscope.numerics.spectrum import Spectrum
    from layerscope.records.layers import Fit


def tail_of(spectrum: Spectrum, power_law: Fit) -> Floats:
    """Return the eigenvalues that the power law was fitted to, ascending from xmin to xmax."""
    low, high = power_law.params["xmin"], power_law.params["xmax"]
    inside = slice(*np.searchsorted(spectrum.evals, [low, math.nextafter(high, math.inf)]))
    return spectrum.evals[inside]


def power_law_log_density(tail: Floats, alpha: float) -> Floats:
    """Return ln p of each value under the power law: ln((α−1)/xmin) − α·ln(λ/xmin)."""
    log_density: Floats = math.log((alpha - 1) / tail[0]) - alpha * np.log(tail / tail[0])
    return log_density


def compare_with_power_law(tail: Floats, alpha: float, log_density: Floats) -> tuple[float, float]:
    """Return the log-likelihood ratio R of the power law over another distribution, and its p-value.

    R > 0 favors the power law. p is Vuong's two-sided p-value that the sign of R is chance: erfc(|R| / (√(2n)·s)), with
    the standard deviation s of the point-wise ratios (Vuong 1989; Clauset et al. 2009, eq. C.6).
    """
    pointwise = power_law_log_density(tail, alpha) - log_density
    ratio, spread = float(pointwise.sum()), float(pointwise.std())
    if spread <= 1e-12 * max(1.0, abs(ratio)):
        return ratio, 1.0
    return ratio, math.erfc(abs(ratio) / (math.sqrt(2 * len(tail)) * spread))


def nested_p_value(gain: float) -> float:
    """Return the p-value of a log-likelihood gain, with one parameter on its boundary: ½χ²₀ + ½χ²₁."""
    return 0.5 * math.erfc(math.sqrt(gain)) if gain > 0 else 1.0
