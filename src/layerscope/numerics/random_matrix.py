"""Eigenvalue laws of random matrices with independent entries, and shuffles that turn a matrix into one.

W is n × m, n ≥ m, with entries of variance σ²; λ are the eigenvalues of WᵀW without normalization; γ = m/n ≤ 1.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

# Upper quantiles of the Tracy–Widom law of order 1: probability → value (the tests check them with Painlevé II).
TRACY_WIDOM = {
    0.1: 0.45014, 0.05: 0.97932, 0.01: 2.02345, 0.005: 2.42233, 0.001: 3.27220,
    1e-4: 4.35942, 1e-5: 5.34430, 1e-6: 6.25635, 1e-7: 7.11293,
}  # fmt: skip
MIN_EVALS_FOR_BULK = 8  # fewest eigenvalues of one matrix for which a random bulk is meaningful
BLOCK_WORDS = 1 << 18  # random words drawn at a time
LOW_HALF = 0 if sys.byteorder == "little" else 1  # index of the less significant half of a 64-bit word


def mp_edges(n: int, m: int, sigma: float) -> tuple[float, float]:
    """Return the edges of the Marchenko–Pastur bulk, σ²(√n ∓ √m)² (Marchenko & Pastur 1967)."""
    root_n, root_m = math.sqrt(n), math.sqrt(m)
    return (sigma * (root_n - root_m)) ** 2, (sigma * (root_n + root_m)) ** 2


@functools.lru_cache(maxsize=64)
def mp_table(n: int, m: int) -> tuple[Floats, Floats]:
    """Return (x, F): the Marchenko–Pastur distribution function F on a grid x, in units of n·σ².

    The density is √((b−x)(x−a)) / (2πγx) on [a, b] = [(1−√γ)², (1+√γ)²]. With x = 1 + γ + 2√γ·cos θ it becomes
    2 sin²θ / (π x(θ)) dθ, which is smooth even for γ = 1, where the density itself is infinite at 0.
    """
    gamma = m / n
    theta = np.linspace(math.pi, 0.0, 2049)
    middle = (theta[1:] + theta[:-1]) / 2
    weight = 2.0 * np.sin(middle) ** 2 / (1 + gamma + 2 * math.sqrt(gamma) * np.cos(middle))
    cumulative = np.concatenate([[0.0], np.cumsum(weight)])
    grid = 1 + gamma + 2 * math.sqrt(gamma) * np.cos(theta)
    return grid, cumulative / cumulative[-1]


def mp_cdf(evals: Floats, n: int, m: int, sigma: float) -> Floats:
    """Return the Marchenko–Pastur distribution function at ``evals``."""
    grid, cumulative = mp_table(n, m)
    below: Floats = np.interp(evals / (n * sigma**2), grid, cumulative)
    return below


def mp_density(evals: Floats, n: int, m: int, sigma: float) -> Floats:
    """Return the Marchenko–Pastur density √((b−x)(x−a)) / (2πγx) / (nσ²), x = λ/(nσ²); zero outside [a, b]."""
    gamma = m / n
    x = np.asarray(evals, np.float64) / (n * sigma**2)
    low, high = (1 - math.sqrt(gamma)) ** 2, (1 + math.sqrt(gamma)) ** 2
    inside = np.clip((high - x) * (x - low), 0.0, None)
    density: Floats = np.sqrt(inside) / (2 * math.pi * gamma * np.maximum(x, 1e-300)) / (n * sigma**2)
    return density


def tracy_widom_edge(
    n: float | Floats, m: float | Floats, sigma: float | Floats, k: int = 1, probability: float = 0.01
) -> Any:
    """Return the value that the largest of k independent λmax exceeds with about the given probability.

    Center (a+b)² and scale (a+b)(1/a+1/b)^⅓ use a = √(n−½), b = √(m−½), with an error of order m^−⅔ (Ma, Bernoulli 18,
    2012). Each of the k matrices is tested at probability/k.
    """
    a, b = np.sqrt(np.maximum(n - 0.5, 0.5)), np.sqrt(np.maximum(m - 0.5, 0.5))
    scale = (a + b) * (1 / a + 1 / b) ** (1 / 3)
    return sigma**2 * ((a + b) ** 2 + scale * tracy_widom_quantile(probability / k))


@functools.cache
def tracy_widom_quantile(probability: float) -> float:
    """Return an upper quantile s of the Tracy–Widom law of order 1, for probabilities p of at most 0.1.

    Between the entries of the table, s^{3/2} is interpolated linearly in ln p; beyond the table, the tail
    e^{−⅔ s^{3/2}} is used.
    """
    points = sorted(TRACY_WIDOM.items())
    logs = [math.log(p) for p, _ in points]
    powers = [s**1.5 for _, s in points]
    log_probability = math.log(min(probability, 0.1))
    if log_probability >= logs[0]:
        return math.pow(float(np.interp([log_probability], logs, powers)[0]), 2 / 3)
    return math.pow(powers[0] + 1.5 * (logs[0] - log_probability), 2 / 3)


def spikes_and_sigma(evals: Floats, n: int, m: int, k: int, probability: float) -> tuple[int, float]:
    """Return (s, σ): the number of spikes (eigenvalues beyond the bulk) and the σ of the bulk without them.

    For each i, the i largest eigenvalues are removed and σᵢ² = mean(rest)/(n − i/k), because a random matrix without
    its i largest singular values behaves like one of size n − i/k by m − i/k. s is the largest i for which the i-th
    eigenvalue exceeds the Tracy–Widom edge of σᵢ₋₁ (sequential outlier test, Rosner, Technometrics 25, 1983). Large
    spikes therefore cannot hide small ones by inflating σ. At most half of the eigenvalues count as spikes.

    :param evals: positive eigenvalues of all k matrices, ascending.
    :param probability: chance that a layer of independent entries shows a spike.
    """
    count = len(evals)
    removed = np.arange(count // 2 + 1)
    remaining_sums = np.cumsum(evals)[::-1][: len(removed)]
    remaining_n, remaining_m = n - removed / k, m - removed / k
    variance = remaining_sums / (count - removed) / remaining_n
    edges = tracy_widom_edge(remaining_n, remaining_m, np.sqrt(variance), k, probability)
    beyond = np.flatnonzero(evals[::-1][: len(removed) - 1] > edges[:-1])
    spikes = int(beyond[-1]) + 1 if len(beyond) else 0
    return spikes, math.sqrt(variance[spikes])


class Shuffler:
    """Shuffle the entries of each matrix of a stack.

    Each entry is combined with 32 random bits in front of it, and the resulting words are sorted, which takes half the
    time of a Fisher–Yates shuffle. One pair of entries in 2³² draws equal bits and keeps its order by value. Entries
    wider than 32 bits are permuted instead. The array of words is reused, because allocating it costs as much as
    sorting it.
    """

    def __init__(self, stack: Array) -> None:
        self.shape = stack.shape
        self.flat = np.ascontiguousarray(stack).reshape(stack.shape[0], -1)
        self.wide = stack.dtype.itemsize > 4
        self.means = self.flat.mean(axis=1, dtype=np.float64)
        self.words = np.empty(0 if self.wide else self.flat.shape, np.uint64)

    def shuffle(self, seed: list[int]) -> Array:
        """Return one shuffle (k, n, m); the next call overwrites it."""
        if self.wide:
            return np.random.default_rng(seed).permuted(self.flat, axis=1).reshape(self.shape)
        self._fill_words(self.words, seed)
        self.words.sort(axis=1)
        narrow = self.words.view(self.flat.dtype).reshape(*self.shape, -1)
        return narrow[..., LOW_HALF * (narrow.shape[-1] - 1)]

    def origins(self, seed: list[int], matrix: int, places: list[int]) -> list[int]:
        """Return the original positions of the entries at ``places`` of a shuffled matrix, from the same seed."""
        if self.wide:
            numbers = np.broadcast_to(np.arange(self.flat.shape[1]), self.flat.shape)
            order = np.random.default_rng(seed).permuted(numbers, axis=1)[matrix]
            return [int(order[place]) for place in places]
        words = np.empty_like(self.words)
        self._fill_words(words, seed)
        ranked = np.partition(words[matrix], sorted(set(places)))
        return [int((words[matrix] == ranked[place]).argmax()) for place in places]

    def _fill_words(self, words: Array, seed: list[int]) -> None:
        """Fill the words with random bits, in blocks that fit into the cache, and put the entries into the low half."""
        rng = np.random.Generator(np.random.SFC64(seed))
        line = words.reshape(-1)
        for i in range(0, line.size, BLOCK_WORDS):
            line[i : i + BLOCK_WORDS] = rng.integers(0, 1 << 64, min(BLOCK_WORDS, line.size - i), np.uint64)
        line.view(np.uint32)[LOW_HALF::2] = self.flat.view(f"u{self.flat.dtype.itemsize}").reshape(-1)
