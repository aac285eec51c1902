"""Correlation traps: outliers of a shuffled matrix, which only single large entries can make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerscope.numerics import spectra
from layerscope.numerics.lapack_eigenvalues import eigvalsh
from layerscope.numerics.localization import carried
from layerscope.numerics.random_matrix import Shuffler, spikes_and_sigma, tracy_widom_edge
from layerscope.numerics.spectrum import Mode, Spectrum

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

FEWEST = 8  # eigenvalues of a matrix below which a bulk means nothing
MOST = 32  # traps of one shuffle whose vectors are looked at; the others are counted
FELT = 0.5  # |mean|·(nm)^¼/σ above which the mean of the entries is taken out: from 1 on it makes an outlier


def shuffled(shuffler: Shuffler, seed: list[int], rate: float) -> tuple[Spectrum, list[tuple[Mode, int]]]:
    """The spectrum of one shuffle, and its traps with the place, before the shuffle, of the entry that carries each.

    Each matrix is judged by itself: its mean, which shuffling leaves as it is, is taken out; an eigenvalue is a trap
    beyond the Tracy–Widom edge of the matrix's own bulk at rate/k
    (:func:`~layerscope.numerics.random_matrix.spikes_and_sigma`).
    """
    mixed = shuffler.shuffle(seed)
    evals, scale, eps = spectra.eigenvalues(mixed, rough=True)
    spectrum = spectra.collected(mixed, evals, scale, eps)
    k, _, m = mixed.shape
    found: list[tuple[Mode, int]] = []
    for i in range(k if m >= FEWEST and scale == 1.0 else 0):
        found += _of_matrix(mixed[i], float(shuffler.means[i]), np.sort(evals[i]), i, eps, rate / k)
    found.sort(key=lambda pair: -pair[0].value)
    return spectrum, _back(shuffler, seed, found)


def _of_matrix(
    matrix: Array, mean: float, evals: Floats, number: int, eps: float, rate: float
) -> list[tuple[Mode, int]]:
    n, m = matrix.shape
    square = float(evals.sum()) / (n * m)
    wide, gram = matrix, None
    if mean * mean * (n * m) ** 0.5 > FELT**2 * max(square - mean * mean, 0.0):
        wide = matrix.astype(np.float64) - mean
        gram = wide.T @ wide
        evals, eps = np.sort(eigvalsh(gram[None])[0]), spectra.EPS64
    live = evals[evals > m * eps * evals[-1]]
    if len(live) < max(FEWEST, m // 2):
        return []
    spikes, sigma = spikes_and_sigma(live, n, len(live), 1, rate)
    if not spikes:
        return []
    edge = float(tracy_widom_edge(n - spikes, len(live) - spikes, sigma, 1, rate))
    values = live[len(live) - spikes :]
    close = values[-MOST:]
    if gram is None:
        wide = np.ascontiguousarray(matrix, np.float32 if matrix.dtype == np.float32 else np.float64)
        gram = (wide.T @ wide).astype(np.float64)
    counted = [
        (Mode(number, float(value), 0.0, 0.0, 0.0, edge=edge), -1) for value in values[: len(values) - len(close)]
    ]
    return counted + carried(wide, gram, close, number, edge)


def _back(shuffler: Shuffler, seed: list[int], found: list[tuple[Mode, int]]) -> list[tuple[Mode, int]]:
    """The same traps with their places before the shuffle; −1 for those that were only counted."""
    origins: dict[tuple[int, int], int] = {}
    for number in {mode.slice for mode, _ in found}:
        places = [place for mode, place in found if mode.slice == number and place >= 0]
        if places:
            back = shuffler.origins(seed, number, places)
            origins |= {(number, place): origin for place, origin in zip(places, back, strict=True)}
    return [(mode, origins.get((mode.slice, place), -1)) for mode, place in found]
