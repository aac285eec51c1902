"""The Marchenko–Pastur fit of weightwatcher 0.7.7, for comparison with its results."""

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

BANDWIDTH = 0.1  # half-width of the triangular kernel
GRID_POINTS = 1000  # points of the grid from 0 to the largest eigenvalue plus 0.5
MIN_DENSITY = 0.01  # density below which a grid point is ignored
PENALTY = 1000.0  # residual per point if the law does not cover the peak


@family("mp_kde", ref="weightwatcher 0.7.7 (fit_density_with_range); Marchenko & Pastur 1967")
def mp_kde(spectrum: Spectrum, settings: Settings) -> Fit:
    """Least-squares fit of the Marchenko–Pastur density to a kernel density estimate of the eigenvalues.

    The eigenvalues are scaled to x = λ·r/Σλ, and the kernel is a triangle of half-width 0.1. s minimizes the squared
    difference of the densities wherever the estimate exceeds 0.01, first on a grid and then by Nelder–Mead. The edges
    are s²(1 ∓ 1/√Q)². Spikes lie beyond the upper edge plus the square root of Q^−½·edge^⅔·M^−⅔. ``sigma`` is in the
    scaled units, the edges are in units of λ. For square layers use ``marchenko_pastur``, because weightwatcher's
    quarter circle has no σ.
    """
    from scipy.optimize import brute

    n, m, evals = spectrum.n, spectrum.m, spectrum.evals
    if n == m:
        raise Absent("weightwatcher fits no σ to square layers; use marchenko_pastur")
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
    """Return a kernel density estimate on a grid, with the triangular kernel (1 − |u|)₊ of half-width ``width``."""
    values = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low, center, high = (np.searchsorted(values, grid + shift) for shift in (-width, 0.0, width))
    below = (center - low) * (1 - grid / width) + (sums[center] - sums[low]) / width
    above = (high - center) * (1 + grid / width) - (sums[high] - sums[center]) / width
    density: Floats = (below + above) / (len(values) * width)
    return density
