"""What the eigenvalues of a matrix of independent entries look like, and shuffles that make a matrix one.

W is n × m, n ≥ m, entries of variance σ²; λ are eigenvalues of WᵀW, unnormalised; γ = m/n ≤ 1.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.types import Array, Floats

# Upper quantiles of the Tracy–Widom law of order 1: probability → value (tests integrate Painlevé II for them).
TRACY_WIDOM = {
    0.1: 0.45014, 0.05: 0.97932, 0.01: 2.02345, 0.005: 2.42233, 0.001: 3.27220,
    1e-4: 4.35942, 1e-5: 5.34430, 1e-6: 6.25635, 1e-7: 7.11293,
}  # fmt: skip
LOW = 0 if sys.byteorder == "little" else 1  # the half of a 64-bit word that sorts last


def mp_edges(n: int, m: int, sigma: float) -> tuple[float, float]:
    """Edges of the Marchenko–Pastur bulk, σ²(√n ∓ √m)² (Marchenko & Pastur 1967)."""
    root_n, root_m = math.sqrt(n), math.sqrt(m)
    return (sigma * (root_n - root_m)) ** 2, (sigma * (root_n + root_m)) ** 2


@functools.lru_cache(maxsize=64)
def mp_table(n: int, m: int) -> tuple[Floats, Floats]:
    """(x, F): the Marchenko–Pastur distribution function on a grid, in units of n·σ².

    Density √((b−x)(x−a)) / (2πγx) on [a, b] = [(1−√γ)², (1+√γ)²]. With x = 1 + γ + 2√γ·cos θ it becomes
    2 sin²θ / (π x(θ)) dθ, smooth even where γ = 1 makes the density itself infinite at 0 (the quarter circle of √x).
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


def tracy_widom_edge(n: float, m: float, sigma: float, k: int = 1, probability: float = 0.01) -> float:
    """The value that the largest of k independent λmax exceeds with about ``probability``.

    Centre (a+b)² and scale (a+b)(1/a+1/b)^⅓ with a = √(n−½), b = √(m−½) (Ma, Bernoulli 18 (2012): the error is of
    order m^−⅔); the k matrices are allowed for by testing each at probability/k.
    """
    a, b = np.sqrt(np.maximum(n - 0.5, 0.5)), np.sqrt(np.maximum(m - 0.5, 0.5))
    edge: float = sigma**2 * ((a + b) ** 2 + (a + b) * (1 / a + 1 / b) ** (1 / 3) * tracy_widom_quantile(probability / k))
    return edge


@functools.cache
def tracy_widom_quantile(probability: float) -> float:
    """Upper quantile of the Tracy–Widom law of order 1, for probabilities of at most 0.1.

    Between the entries of the table s^{3/2} is nearly linear in ln p; beyond it the tail e^{−⅔ s^{3/2}} is used.
    """
    points = sorted(TRACY_WIDOM.items())
    logs = [math.log(p) for p, _ in points]
    powers = [s**1.5 for _, s in points]
    wanted = math.log(min(probability, 0.1))
    if wanted >= logs[0]:
        return math.pow(float(np.interp([wanted], logs, powers)[0]), 2 / 3)
    return math.pow(powers[0] + 1.5 * (logs[0] - wanted), 2 / 3)


def spikes_and_sigma(evals: Floats, n: int, m: int, k: int, probability: float) -> tuple[int, float]:
    """(s, σ): eigenvalues beyond the bulk and the σ of the bulk alone, of ascending positive eigenvalues of k matrices.

    For every i the i largest are taken out and σᵢ² = mean(rest)/(n − i/k): what is left of a matrix of independent
    entries without its i largest singular values is as one of n − i/k by m − i/k. s is the largest i whose i-th
    eigenvalue lies beyond the Tracy–Widom edge of σᵢ₋₁ (the sequential outlier test of Rosner, Technometrics 25
    (1983)): large spikes cannot hide small ones behind the σ that they inflate, and a layer of independent entries
    shows a spike in at most ``probability`` of cases. At most half of the eigenvalues are spikes.
    """
    count = len(evals)
    taken = np.arange(count // 2 + 1)
    rest = np.cumsum(evals)[::-1][: len(taken)]
    left_n, left_m = n - taken / k, m - taken / k
    variance = rest / (count - taken) / left_n
    edges = tracy_widom_edge(left_n, left_m, np.sqrt(variance), k, probability)
    beyond = np.flatnonzero(evals[::-1][: len(taken) - 1] > edges[:-1])
    spikes = int(beyond[-1]) + 1 if len(beyond) else 0
    return spikes, math.sqrt(variance[spikes])


def shuffled(stack: Array, seed: list[int]) -> Array:
    """The same matrices, the entries of each in random order.

    Each entry gets 32 random bits above its own; sorting these words costs half of what Fisher–Yates does, and the
    one pair in 2³² that draws the same bits is the only trace of it. Entries wider than 32 bits are permuted.
    """
    k = stack.shape[0]
    flat = np.ascontiguousarray(stack).reshape(k, -1)
    if flat.dtype.itemsize > 4:
        return np.random.default_rng(seed).permuted(flat, axis=1).reshape(stack.shape)
    words = _keyed(flat, seed)
    words.sort(axis=1)
    bits = words.view(np.uint32).reshape(*flat.shape, 2)[:, :, LOW]
    return bits.astype(f"u{flat.dtype.itemsize}").view(flat.dtype).reshape(stack.shape)


def unshuffle(stack: Array, seed: list[int], matrix: int, places: list[int]) -> list[int]:
    """Where the entries at these places of a shuffled matrix were before: the same random numbers, drawn again."""
    k = stack.shape[0]
    flat = np.ascontiguousarray(stack).reshape(k, -1)
    if flat.dtype.itemsize > 4:
        order = np.random.default_rng(seed).permuted(np.broadcast_to(np.arange(flat.shape[1]), flat.shape), axis=1)[matrix]
    else:
        order = np.argsort(_keyed(flat, seed)[matrix], kind="stable")
    return [int(order[place]) for place in places]


def _keyed(flat: Array, seed: list[int]) -> Array:
    """Words of 64 bits: 32 random ones above those of the entry."""
    words = np.empty((*flat.shape, 2), np.uint32)
    half = -(-flat.size // 2)
    keys = np.random.default_rng(seed).integers(0, 1 << 64, half, np.uint64, endpoint=False).view(np.uint32)
    words[:, :, 1 - LOW] = keys[: flat.size].reshape(flat.shape)
    words[:, :, LOW] = flat.view(f"u{flat.dtype.itemsize}")
    return words.reshape(flat.shape[0], -1).view(np.uint64)
