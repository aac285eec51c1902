"""Correlation traps: eigenvalues of a shuffled matrix beyond the random bulk, caused by single outlier weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerscope.numerics import spectra
from layerscope.numerics.lapack_eigenvalues import eigvalsh
from layerscope.numerics.localization import locate_modes
from layerscope.numerics.random_matrix import MIN_EVALS_FOR_BULK, Shuffler, spikes_and_sigma, tracy_widom_edge
from layerscope.numerics.spectrum import Mode, Spectrum

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

MAX_LOCATED_TRAPS = 32  # most traps of one shuffle to locate by their eigenvectors; further ones are only counted
MEAN_REMOVAL_THRESHOLD = 0.5  # |mean|·(nm)^¼/σ above which entries are centered; from 1 on the mean causes an outlier


def analyze_shuffle(shuffler: Shuffler, seed: list[int], rate: float) -> tuple[Spectrum, list[tuple[Mode, int]]]:
    """Return the spectrum of one shuffle and its traps, each with the original position of its outlier weight.

    Each matrix is judged separately. Its mean is removed, because shuffling does not change it. An eigenvalue is a trap
    if it lies beyond the Tracy–Widom edge of the matrix's own bulk at rate/k
    (:func:`~layerscope.numerics.random_matrix.spikes_and_sigma`).

    :param rate: chance that a stack of k random matrices shows a trap.
    :return: (spectrum, list of (mode, position in the flattened matrix before the shuffle)).
    """
    shuffled = shuffler.shuffle(seed)
    evals, scale, eps = spectra.eigenvalues(shuffled, rough=True)
    spectrum = spectra.spectrum_of_eigenvalues(shuffled, evals, scale, eps)
    k, _, m = shuffled.shape
    traps: list[tuple[Mode, int]] = []
    for i in range(k if m >= MIN_EVALS_FOR_BULK and scale == 1.0 else 0):
        traps += _traps_of_matrix(shuffled[i], float(shuffler.means[i]), np.sort(evals[i]), i, eps, rate / k)
    traps.sort(key=lambda pair: -pair[0].value)
    return spectrum, _restore_positions(shuffler, seed, traps)


def _traps_of_matrix(
    matrix: Array, mean: float, evals: Floats, number: int, eps: float, rate: float
) -> list[tuple[Mode, int]]:
    n, m = matrix.shape
    mean_square = float(evals.sum()) / (n * m)
    precise, gram = matrix, None
    if mean * mean * (n * m) ** 0.5 > MEAN_REMOVAL_THRESHOLD**2 * max(mean_square - mean * mean, 0.0):
        precise = matrix.astype(np.float64) - mean
        gram = precise.T @ precise
        evals, eps = np.sort(eigvalsh(gram[None])[0]), spectra.EPS64
    positive = evals[evals > m * eps * evals[-1]]
    if len(positive) < max(MIN_EVALS_FOR_BULK, m // 2):
        return []
    spikes, sigma = spikes_and_sigma(positive, n, len(positive), 1, rate)
    if not spikes:
        return []
    edge = float(tracy_widom_edge(n - spikes, len(positive) - spikes, sigma, 1, rate))
    values = positive[len(positive) - spikes :]
    located = values[-MAX_LOCATED_TRAPS:]
    if gram is None:
        precise = np.ascontiguousarray(matrix, np.float32 if matrix.dtype == np.float32 else np.float64)
        gram = (precise.T @ precise).astype(np.float64)
    unlocated = [
        (Mode(number, float(value), 0.0, 0.0, 0.0, edge=edge), -1) for value in values[: len(values) - len(located)]
    ]
    return unlocated + locate_modes(precise, gram, located, number, edge)


def _restore_positions(shuffler: Shuffler, seed: list[int], traps: list[tuple[Mode, int]]) -> list[tuple[Mode, int]]:
    """Replace shuffled positions by the positions before the shuffle; −1 for traps that were only counted."""
    origins: dict[tuple[int, int], int] = {}
    for number in {mode.slice for mode, _ in traps}:
        positions = [position for mode, position in traps if mode.slice == number and position >= 0]
        if positions:
            original = shuffler.origins(seed, number, positions)
            origins |= {(number, position): origin for position, origin in zip(positions, original, strict=True)}
    return [(mode, origins.get((mode.slice, position), -1)) for mode, position in traps]
