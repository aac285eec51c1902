"""How sure the power law is: resampled interval of α and a goodness-of-fit p-value."""

from __future__ import annotations

import numpy as np

from layerscope.errors import Absent
from layerscope.fits import family
from layerscope.fits.power_law import best_tail, positive
from layerscope.settings import Settings
from layerscope.types import Fit, Spectrum


@family("bootstrap", ref="Clauset, Shalizi & Newman 2009, §3.3 and §4.1")
def bootstrap(spectrum: Spectrum, settings: Settings, power_law: Fit) -> Fit:
    """Seeded bootstrap of the whole fit, the choice of xmin included.

    Interval: quantiles of α over resamples with replacement of all eigenvalues. p: the share of semi-parametric
    samples (below xmin resampled, above it drawn from the fitted law) that fit worse than the data, (1+#)/(1+B).
    """
    logs = np.log(positive(spectrum, settings))
    logs = logs[: len(logs) - int(power_law.params["fingers"])]
    alpha, ks, n = (power_law.params[name] for name in ("alpha", "ks", "n_tail"))
    start = len(logs) - int(n)
    rng = np.random.default_rng([settings.seed, len(logs)])
    alphas, distances = [], []
    for _ in range(settings.bootstrap):
        alphas.append(_refit(np.sort(rng.choice(logs, len(logs))), settings.min_tail)[0])
        above = rng.random(len(logs)) < n / len(logs)
        sample = np.where(above, logs[start] + rng.standard_exponential(len(logs)) / (alpha - 1), 0.0)
        if start > 0:
            sample[~above] = rng.choice(logs[:start], int((~above).sum()))
        distances.append(_refit(np.sort(sample), settings.min_tail)[1])
    tail = (1 - settings.confidence) / 2
    low, high = np.nanquantile(alphas, [tail, 1 - tail])
    worse = int(np.sum(np.array(distances) >= ks))
    return Fit(
        "bootstrap",
        ok=True,
        params={"alpha_low": float(low), "alpha_high": float(high), "p": (1 + worse) / (1 + settings.bootstrap)},
    )


def _refit(logs: np.ndarray, min_tail: int) -> tuple[float, float]:
    try:
        tail = best_tail(logs, min_tail)
    except Absent:  # a resample of one repeated value
        return np.nan, np.inf
    return tail.alpha, tail.ks
