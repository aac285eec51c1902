"""The Marchenko–Pastur fit of weightwatcher 0.7.7, for people who compare with its numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from layerscope.errors import Absent
from layerscope.fits import family
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit
from layerscope.settings import Settings

if TYPE_CHECKING:
    from layerscope.array_types import Floats

BANDWIDTH = 0.1  # of the triangular kernel
GRID_POINTS = 1000  # of the grid, from 0 to the largest eigenvalue and 0.5 more
MIN_DENSITY = 0.01  # density below which a point does not count
PENALTY = 1000.0  # residual where the law does not cover the peak


@family("mp_kde", ref="weightwatcher 0.7.7 (fit_density_with_range); Marchenko & Pastur 1967")
def mp_kde(spectrum: Spectrum, settings: Settings) -> Fit:
    """Least squares between the Marchenko–Pastur density and a kernel estimate of the eigenvalues' density.

    x = λ·r/Σλ; the kernel is a triangle of half-width 0.1. s minimises the squared difference of the densities where
    the estimate exceeds 0.01, on a grid and then by Nelder & Mead; edges s²(1 ∓ 1/√Q)², spikes beyond the upper one
    plus the square root of Q^−½·edge^⅔·M^−⅔. ``sigma`` is in the rescaled units, edges in those of λ. Square layers are
    left to ``marchenko_pastur``: there weightwatcher's quarter circle has no σ in it.
    """
    from scipy.optimize import brute

    n, m, evals = spectrum.n, spectrum.m, spectrum.evals
    if n == m:
        raise Absent("square layers have a quarter circle without σ in weightwatcher; see marchenko_pastur")
    if not spectrum.complete or evals[-1] <= 0:
        raise Absent("no bulk to fit")
    q = n / m
    scale = math.sqrt(len(evals) / float(evals.sum()))
    x = scale**2 * evals
    grid = np.linspace(0, float(x.max()) + 0.5, GRID_POINTS)
    density = triangle_density(x, grid)
    counts = density > MIN_DENSITY
    grid, density = grid[counts], density[counts]
    peak, end = float(grid[density.argmax()]), float(grid.max())

    def loss(s: Floats) -> float:
        sigma = float(np.asarray(s).ravel()[0])
        high, low = (sigma * (1 + math.sqrt(1 / q))) ** 2, (sigma * (1 - math.sqrt(1 / q))) ** 2
        if high < peak or high > end or low > peak:
            return PENALTY**2 * len(grid)
        with np.errstate(invalid="ignore", divide="ignore"):
            law = 1 / (2 * math.pi * sigma**2 * grid / q) * np.sqrt((high - grid) * (grid - low))
        return float(np.square(np.nan_to_num(law) - density).sum())

    start = math.sqrt(float(x.max())) / (1 + 1 / math.sqrt(q))
    sigma = float(np.ravel(brute(loss, (slice(0.05 * start, 2.0 * start, 0.01 * start),)))[0])
    high, low = (sigma * (1 + 1 / math.sqrt(q))) ** 2, (sigma * (1 - 1 / math.sqrt(q))) ** 2
    margin = math.sqrt(1 / math.sqrt(q) * high ** (2 / 3) * m ** (-2 / 3))
    params = {
        "sigma": sigma,
        "scale": scale,
        "bulk_min": low / scale**2,
        "bulk_max": high / scale**2,
        "softrank": high / float(x.max()),
        "spikes": int((x > high + margin).sum()),
    }
    return Fit("mp_kde", ok=True, params=params)


def triangle_density(values: Floats, grid: Floats, width: float = BANDWIDTH) -> Floats:
    """Kernel density estimate on a grid, the kernel (1 − |u|)₊ of half-width ``width``; sums by sorted prefix sums."""
    values = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low, center, high = (np.searchsorted(values, grid + shift) for shift in (-width, 0.0, width))
    below = (center - low) * (1 - grid / width) + (sums[center] - sums[low]) / width
    above = (high - center) * (1 + grid / width) - (sums[high] - sums[center]) / width
    density: Floats = (below + above) / (len(values) * width)
    return density
