"""The lognormal tail, the alternative that is most similar to a power law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from layerscope.errors import Absent
from layerscope.fits import family
from layerscope.fits.likelihood_ratio import compare_with_power_law, tail_of
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit
from layerscope.settings import Settings

MAX_SIGMA = 1e4  # σ beyond which the lognormal equals a power law within floating-point precision


@family("lognormal", ref="Clauset, Shalizi & Newman 2009, Table 2.1 and §5.1")
def lognormal(spectrum: Spectrum, settings: Settings, power_law: Fit) -> Fit:
    """Lognormal tail above the xmin of the power law, by maximum likelihood, compared by Vuong's test.

    With t = ln(λ/xmin) ≥ 0, the density of t is a normal distribution truncated at 0: p(t) = φ((t−μ)/s) / (s·Φ(μ/s)).
    For μ → −∞ with s²/|μ| fixed, it becomes the power law itself. It therefore never fits much worse, and is preferred
    only if it fits significantly better.
    """
    from scipy.optimize import minimize
    from scipy.special import log_ndtr

    tail = tail_of(spectrum, power_law)
    t = np.log(tail / tail[0])
    spread = float(t.std())
    if spread <= 0:
        raise Absent("all eigenvalues of the tail are equal")

    def log_density(mu: float, s: float) -> Any:
        centered = (t - mu) / s
        return -0.5 * centered**2 - math.log(s) - 0.5 * math.log(2 * math.pi) - log_ndtr(mu / s)

    def loss(x: np.ndarray) -> float:
        return -float(log_density(x[0] * spread, math.exp(x[1]) * spread).mean())

    starts = ([float(t.mean()) / spread, 0.0], [-5.0, 1.0], [-50.0, 2.0])
    bounds = [(-MAX_SIGMA, MAX_SIGMA), (math.log(1e-3), math.log(MAX_SIGMA))]
    best = min((minimize(loss, x, method="L-BFGS-B", bounds=bounds) for x in starts), key=lambda r: float(r.fun))
    mu, s = float(best.x[0]) * spread, math.exp(float(best.x[1])) * spread
    density = log_density(mu, s) - t - math.log(tail[0])  # of λ, not of ln λ
    ratio, p = compare_with_power_law(tail, power_law.params["alpha"], density)
    params = {"mu": mu + math.log(tail[0]), "s": s, "ratio": ratio, "p": p, "loglik": float(density.sum())}
    return Fit("lognormal", ok=True, params=params)
