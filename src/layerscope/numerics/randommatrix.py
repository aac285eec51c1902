"""What the eigenvalues of a matrix of independent entries look like.

W is n × m, n ≥ m, entries of variance σ²; λ are eigenvalues of WᵀW, unnormalised; γ = m/n ≤ 1.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.types import Floats

# Upper quantiles of the Tracy–Widom law of order 1: probability → value (tests integrate Painlevé II for them).
TRACY_WIDOM = {
    0.1: 0.45014, 0.05: 0.97932, 0.01: 2.02345, 0.005: 2.42233, 0.001: 3.27220,
    1e-4: 4.35942, 1e-5: 5.34430, 1e-6: 6.25635, 1e-7: 7.11293,
}  # fmt: skip


def mp_edges(n: int, m: int, sigma: float) -> tuple[float, float]:
    """Edges of the Marchenko–Pastur bulk, σ²(√n ∓ √m)² (Marchenko & Pastur 1967)."""
    root_n, root_m = math.sqrt(n), math.sqrt(m)
    return (sigma * (root_n - root_m)) ** 2, (sigma * (root_n + root_m)) ** 2


@functools.lru_cache(maxsize=64)
def mp_table(n: int, m: int) -> tuple[Floats, Floats]:
    """(x, F): the Marchenko–Pastur distribution function on a grid, in units of n·σ².

    Density √((b−x)(x−a)) / (2πγx) on [a, b] = [(1−√γ)², (1+√γ)²]. With x = 1 + γ + 2√γ·cos θ it becomes
    2 sin²θ / (π x(θ)) dθ, smooth even where γ = 1 makes the density itself infinite at 0.
    """
    gamma = m / n
    theta = np.linspace(math.pi, 0.0, 2049)
    middle = (theta[1:] + theta[:-1]) / 2
    weight = 2.0 * np.sin(middle) ** 2 / (1 + gamma + 2 * math.sqrt(gamma) * np.cos(middle))
    cumulative = np.concatenate([[0.0], np.cumsum(weight)])
    grid = 1 + gamma + 2 * math.sqrt(gamma) * np.cos(theta)
    return grid, cumulative / cumulative[-1]


def mp_cdf(evals: Floats, n: int, m: int, sigma: float) -> Floats:
    """Marchenko–Pastur distribution function at ``evals``."""
    grid, cumulative = mp_table(n, m)
    below: Floats = np.interp(evals / (n * sigma**2), grid, cumulative)
    return below


def mp_quantile(probability: float, n: int, m: int) -> float:
    """Quantile of the Marchenko–Pastur law in units of n·σ²."""
    grid, cumulative = mp_table(n, m)
    return float(np.interp([probability], cumulative, grid)[0])


def tracy_widom_edge(n: int, m: int, sigma: float, k: int = 1, probability: float = 0.01) -> float:
    """The value that the largest of k independent λmax exceeds with about ``probability``.

    Centre (√(n−1)+√m)² and scale (√(n−1)+√m)(1/√(n−1)+1/√m)^⅓ of Johnstone (2001, Theorem 1); the k matrices
    are allowed for by testing each at probability/k, beyond the table on the upper tail e^{−⅔ s^{3/2}}.
    """
    a, b = math.sqrt(max(n - 1, 1)), math.sqrt(m)
    centre, scale = (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
    edge: float = sigma**2 * (centre + scale * tracy_widom_quantile(probability / k))
    return edge


def tracy_widom_quantile(probability: float) -> float:
    """Upper quantile of the Tracy–Widom law of order 1, for probabilities of at most 0.1."""
    points = sorted(TRACY_WIDOM.items())
    logs = [math.log(p) for p, _ in points]
    powers = [s**1.5 for _, s in points]  # nearly linear in log p, which is about const − ⅔ s^{3/2}
    wanted = math.log(min(probability, 0.1))
    if wanted >= logs[0]:
        return math.pow(float(np.interp([wanted], logs, powers)[0]), 2 / 3)
    return math.pow(powers[0] + 1.5 * (logs[0] - wanted), 2 / 3)
