"""The Marchenko–Pastur bulk: the spectrum of a random matrix of the same size."""

from __future__ import annotations

import numpy as np

from layerscope.errors import Absent
from layerscope.fits import family
from layerscope.numerics.random_matrix import (
    MIN_EVALS_FOR_BULK,
    mp_cdf,
    mp_edges,
    spikes_and_sigma,
    tracy_widom_edge,
)
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit
from layerscope.settings import Settings


@family("marchenko_pastur", ref="Marchenko & Pastur 1967; Ma, Bernoulli 18 (2012); Rosner, Technometrics 25 (1983)")
def marchenko_pastur(spectrum: Spectrum, settings: Settings) -> Fit:
    """Marchenko–Pastur bulk with σ estimated from the bulk alone.

    Spikes are removed one by one, and σ² is the mean of the rest over n. The result is the largest number of spikes for
    which the last one still lies beyond the Tracy–Widom edge. A layer of independent entries has a spike in at most
    ``Settings.spike_rate`` of cases (measured at 1 %: 0.1–1 % of single matrices, up to 3 % of stacks of hundreds of
    small ones).

    ``ks`` is the Kolmogorov–Smirnov distance of the bulk to the law for n and m minus the spikes; ``edge`` belongs to
    the same law. ``bulk_min`` and ``bulk_max`` are the edges for n and m. For square layers, the law is the quarter
    circle of the singular values. Zero eigenvalues are excluded. Pooled stacks are assumed to share one σ, in units of
    W.
    """
    n, m, k = spectrum.n, spectrum.m, spectrum.k
    if not spectrum.complete:
        raise Absent("a low-rank product or an inverse spectrum has no random bulk")
    if m < MIN_EVALS_FOR_BULK:
        raise Absent(f"matrices of {m} eigenvalue{'s' * (m != 1)} have no bulk (at least {MIN_EVALS_FOR_BULK})")
    live = spectrum.live
    if len(live) < len(spectrum.evals) / 2:
        raise Absent(f"{len(spectrum.evals) - len(live)} of {len(spectrum.evals)} eigenvalues are zero: no bulk")
    m = max(MIN_EVALS_FOR_BULK // 2, round(len(live) / k))
    spikes, sigma = spikes_and_sigma(live, n, m, k, settings.spike_rate)
    spikes_per_matrix = min(round(spikes / k), m - 1)
    low, high = mp_edges(n, m, sigma)
    bulk = live[: len(live) - spikes]
    steps = np.arange(len(bulk) + 1) / len(bulk)
    law = mp_cdf(bulk, n - spikes_per_matrix, m - spikes_per_matrix, sigma)
    ks = float(max(np.abs(law - steps[:-1]).max(), np.abs(law - steps[1:]).max()))
    edge = tracy_widom_edge(n - spikes_per_matrix, m - spikes_per_matrix, sigma, k, settings.spike_rate)
    params = {"sigma": sigma, "bulk_min": low, "bulk_max": high, "edge": float(edge), "spikes": spikes, "ks": ks}
    return Fit("marchenko_pastur", ok=True, params=params)
