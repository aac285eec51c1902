"""The uncertainty of the power law: a bootstrap interval of α and a goodness-of-fit p-value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerscope.errors import Absent
from layerscope.fits import family
from layerscope.fits.power_law import Tail, best_tail, fittable_eigenvalues, modified_ks, xmin_window
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit
from layerscope.settings import Settings

if TYPE_CHECKING:
    from layerscope.array_types import Floats


MAX_STARTS = 256  # most starts of a tail that are tried
MAX_PLAUSIBLE_KS = 0.8  # largest Stephens' statistic of a tail that counts as a power law; two thirds of true ones pass


@family("bootstrap", ref="Clauset, Shalizi & Newman 2009, §3.3 and §4.1")
def bootstrap(spectrum: Spectrum, settings: Settings, power_law: Fit) -> Fit:
    """Seeded bootstrap of the whole fit, including the choice of xmin.

    The interval consists of quantiles of α over resamples of all eigenvalues with replacement. p is the share of
    semi-parametric samples that fit worse than the data, (1+#)/(1+B). In these samples, values below a start are
    resampled and values above it are drawn from the power law.

    The start is not the fitted xmin but the smallest one that the data do not contradict (``law_to_draw_from``). The
    xmin of the best fit usually cuts off a part of the true tail; samples with a shorter tail than the data fit worse,
    which would make p too large. With this start, p is uniform for power laws. It judges the tail that was found, and
    is weak evidence against a short one (docs: How sure α is, and other rates).
    """
    logs = np.log(fittable_eigenvalues(spectrum, settings))
    logs = logs[: len(logs) - int(power_law.params["fingers"])]
    alpha, ks, n = (power_law.params[name] for name in ("alpha", "ks", "n_tail"))
    start, alpha, n = law_to_draw_from(logs, Tail(alpha, len(logs) - int(n), ks), settings.min_tail)
    rng = np.random.default_rng([settings.seed, len(logs), *_spectrum_seed(logs)])
    window = xmin_window(logs, settings)
    alphas, distances = [], []
    for _ in range(settings.bootstrap):
        alphas.append(_refit_tail(np.sort(rng.choice(logs, len(logs))), settings.min_tail, window)[0])
        above = rng.random(len(logs)) < n / len(logs)
        sample = np.where(above, logs[start] + rng.standard_exponential(len(logs)) / (alpha - 1), 0.0)
        if start > 0:
            sample[~above] = rng.choice(logs[:start], int((~above).sum()))
        distances.append(_refit_tail(np.sort(sample), settings.min_tail, window)[1])
    tail = (1 - settings.confidence) / 2
    low, high = np.nanquantile(alphas, [tail, 1 - tail])
    worse = int(np.sum(np.array(distances) >= ks))
    return Fit(
        "bootstrap",
        ok=True,
        params={"alpha_low": float(low), "alpha_high": float(high), "p": (1 + worse) / (1 + settings.bootstrap)},
    )


def law_to_draw_from(logs: Floats, tail: Tail, min_tail: int) -> tuple[int, float, int]:
    """Return start, α and length n of the longest plausible tail.

    The tail is at least as long as the fitted one and passes its own KS test: Stephens' statistic is at most 0.8, which
    two thirds of true power laws pass. At most 256 starts are tried.
    """
    starts = np.unique(np.linspace(0, tail.start, MAX_STARTS).astype(int))
    for start in starts[:-1]:
        n = len(logs) - int(start)
        excess = float((logs[start:] - logs[start]).sum())
        if excess <= 0:
            continue
        slope = n / excess
        model = 1 - np.exp(slope * (logs[start] - logs[start:]))
        if modified_ks(float(np.abs(model - np.arange(n) / n).max()), n) <= MAX_PLAUSIBLE_KS:
            return int(start), 1 + slope, n
    return tail.start, tail.alpha, len(logs) - tail.start


def _spectrum_seed(logs: Floats) -> list[int]:
    """Return seeds that identify a spectrum up to its scale, so that layers do not share random draws."""
    return [round(1e6 * float(logs[-1] - logs[i])) for i in (0, len(logs) // 2, -2)]


def _refit_tail(logs: np.ndarray, min_tail: int, window: tuple[float, float] | None) -> tuple[float, float]:
    try:
        tail = best_tail(logs, min_tail, window)
    except Absent:  # the resample consists of one repeated value
        return np.nan, np.inf
    return tail.alpha, tail.ks
