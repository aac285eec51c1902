"""The power law with an exponential cutoff: p(λ) ∝ λ^−α e^{−Λλ}."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from layerscope.fits import family
from layerscope.fits.likelihood_ratio import nested_p_value, power_law_log_density, tail_of
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit
from layerscope.settings import Settings

if TYPE_CHECKING:
    from layerscope.array_types import Floats


MIN_ALPHA = 1.0  # smallest α; below, the tail is only an exponential


@family("truncated_power_law", ref="Clauset, Shalizi & Newman 2009, Table 2.1; test at the boundary: Self & Liang 1987")
def truncated_power_law(spectrum: Spectrum, settings: Settings, power_law: Fit) -> Fit:
    """Truncated power law above the xmin of the power law, fitted by maximum likelihood.

    With x = λ/xmin, p(x) = x^−α e^{−θx} / E_α(θ), E_α(θ) = ∫₁^∞ t^−α e^{−θt} dt and Λ = θ/xmin ≥ 0. The power law is
    the case Λ = 0, so ``p`` is that of the nested likelihood-ratio test: on the boundary, twice the gain is ½χ²₀ +
    ½χ²₁.
    """
    tail = tail_of(spectrum, power_law)
    alpha0 = power_law.params["alpha"]
    alpha, cutoff, density = fit_truncated(tail, alpha0)
    gain = max(0.0, float((density - power_law_log_density(tail, alpha0)).sum()))
    params = {
        "alpha": alpha,
        "Lambda": cutoff,
        "ratio": -gain,
        "p": nested_p_value(gain),
        "loglik": float(density.sum()),
    }
    return Fit("truncated_power_law", ok=True, params=params)


def fit_truncated(tail: Floats, alpha: float) -> tuple[float, float, Floats]:
    """Return α, Λ and ln p of each value for the most likely truncated power law.

    ``tail`` must ascend, and ``alpha`` is the start value of the search.
    """
    from scipy.optimize import minimize

    x = tail / tail[0]
    mean_log, mean = float(np.log(x).mean()), float(x.mean())

    def loss(v: np.ndarray) -> float:
        slope, theta = float(v[0]), math.exp(float(v[1]))
        return slope * mean_log + theta * mean + log_exponential_integral(slope, theta)

    starts = (
        [alpha, math.log(1e-6)],
        [max(alpha - 1, MIN_ALPHA), math.log(0.5 / mean)],
        [MIN_ALPHA, math.log(1 / mean)],
    )
    bounds = [(MIN_ALPHA, 100.0), (math.log(1e-12), math.log(1e4))]
    best = min((minimize(loss, v, method="L-BFGS-B", bounds=bounds) for v in starts), key=lambda r: float(r.fun))
    alpha, theta = float(best.x[0]), math.exp(float(best.x[1]))
    density = -alpha * np.log(x) - theta * x - log_exponential_integral(alpha, theta) - math.log(tail[0])
    return alpha, theta / float(tail[0]), density


def log_exponential_integral(alpha: float, theta: float) -> float:
    """Return ln ∫₁^∞ t^−α e^{−θt} dt for real α and θ > 0, by Gauss–Legendre quadrature in u = ln t."""
    slope = alpha - 1
    peak = max(0.0, math.log(-slope / theta)) if slope < 0 else 0.0  # where −(α−1)u − θe^u is largest
    top = -slope * peak - theta * math.exp(peak)
    step = 1 / (max(slope, 0.0) + theta * math.exp(peak) + 1)  # the scale on which the integrand falls
    end = peak + step
    while -slope * end - theta * math.exp(end) > top - 40:
        end += max(step, 0.1 * (end - peak))
    nodes, weights = _legendre_nodes()
    pieces = [(0.0, peak)] if peak > 0 else []
    pieces += [(peak, (peak + end) / 2), ((peak + end) / 2, end)]
    total = 0.0
    for a, b in pieces:
        u = (a + b) / 2 + (b - a) / 2 * nodes
        total += (b - a) / 2 * float(weights @ np.exp(-slope * u - theta * np.exp(u) - top))
    return math.log(total) + top


@functools.cache
def _legendre_nodes() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(80)
    return nodes, weights
