"""The exponential tail, the main alternative to a power law: p(λ) = r·e^{−r(λ−xmin)}."""

from __future__ import annotations

import math

import numpy as np

from layerscope.errors import Absent
from layerscope.fits import family
from layerscope.fits.likelihood_ratio import compare_with_power_law, tail_of
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit
from layerscope.settings import Settings


@family("exponential", ref="Clauset, Shalizi & Newman 2009, Table 2.1 and §5.1")
def exponential(spectrum: Spectrum, settings: Settings, power_law: Fit) -> Fit:
    """Exponential tail above the xmin of the power law, with rate 1/mean(λ − xmin), compared by Vuong's test."""
    tail = tail_of(spectrum, power_law)
    mean = float((tail - tail[0]).mean())
    if mean <= 0:
        raise Absent("all eigenvalues of the tail are equal")
    log_density = -math.log(mean) - (tail - tail[0]) / mean
    ratio, p = compare_with_power_law(tail, power_law.params["alpha"], log_density)
    return Fit(
        "exponential", ok=True, params={"rate": 1 / mean, "ratio": ratio, "p": p, "loglik": float(np.sum(log_density))}
    )
