"""The Marchenko–Pastur bulk: what a matrix of independent entries would look like."""

from __future__ import annotations

import math

import numpy as np

from layerscope.errors import Absent
from layerscope.fits import family
from layerscope.numerics.randommatrix import mp_cdf, mp_edges, mp_quantile, tracy_widom_edge
from layerscope.settings import Settings
from layerscope.types import Fit, Spectrum

FEWEST = 8  # eigenvalues of one matrix below which a bulk means nothing


@family("marchenko_pastur", ref="Gavish & Donoho, IEEE Trans. Inf. Theory 60 (2014), §III.E; Johnstone 2001")
def marchenko_pastur(spectrum: Spectrum, settings: Settings) -> Fit:
    """Marchenko–Pastur bulk with σ from the median eigenvalue.

    σ² = median(λ) / (n·μ½), μ½ the median of the law at γ = m/n: spikes above the bulk barely move a median.
    Edges σ²(√n ∓ √m)²; spikes are the eigenvalues beyond the 1 % Tracy–Widom edge of the largest of k matrices;
    ``ks`` is the Kolmogorov–Smirnov distance of the eigenvalues up to that edge to the law cut at the same place.
    Pooled stacks are taken to share one σ. σ is in units of the weights.
    """
    n, m, evals = spectrum.n, spectrum.m, spectrum.evals
    if m < FEWEST:
        raise Absent(f"matrices of {m} eigenvalues have no bulk (at least {FEWEST})")
    live = spectrum.live
    if len(live) < len(evals) / 2:
        raise Absent(f"{len(evals) - len(live)} of {len(evals)} eigenvalues are zero: no bulk")
    sigma = math.sqrt(float(np.median(live)) / (n * mp_quantile(0.5, n, m)))
    low, high = mp_edges(n, m, sigma)
    edge = tracy_widom_edge(n, m, sigma, spectrum.k)
    bulk = live[live <= edge]
    steps = np.arange(len(bulk) + 1) / len(bulk)
    law = mp_cdf(bulk, n, m, sigma)
    ks = float(max(np.abs(law - steps[:-1]).max(), np.abs(law - steps[1:]).max()))
    return Fit(
        "marchenko_pastur",
        ok=True,
        params={
            "sigma": sigma,
            "bulk_min": low,
            "bulk_max": high,
            "edge": edge,
            "spikes": len(live) - len(bulk),
            "ks": ks,
        },
    )
