"""How far the eigenvectors of a matrix are spread over its entries."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from layerscope.numerics.spectrum import Mode

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

ENTROPY_BINS = 100  # of the histogram of an eigenvector's entries (WeightWatcher's discrete_entropy)
MAX_SOLVED_VECTORS = 8  # eigenvectors up to which solving for each is cheaper than finding all
RELATIVE_SHIFT = 1e-9  # relative shift that keeps the systems from being singular
BIN_OFFSET = 1e-10  # added to each bin, there too


def all_modes(stack: Array) -> tuple[Mode, ...]:
    """All eigenvectors of each WᵀW, by rising eigenvalue over the whole stack."""
    modes = []
    for i, matrix in enumerate(stack):
        precise = matrix.astype(np.float64)
        values, vectors = np.linalg.eigh(precise.T @ precise)
        modes += [_describe_mode(i, max(0.0, float(value)), vectors[:, j]) for j, value in enumerate(values)]
    return tuple(sorted(modes, key=lambda mode: mode.value))


def locate_modes(wide: Array, gram: Floats, values: Floats, matrix: int, edge: float) -> list[tuple[Mode, int]]:
    """(mode, place) of a few eigenvalues of one matrix W (n, m) whose Gram matrix is given.

    ``place`` is where the entry lies, in the flattened matrix, that carries most of the mode: with singular vectors u
    and v, the largest |uᵢvⱼ|; its ``share`` of the singular value is Wᵢⱼuᵢvⱼ/σ.
    """
    located = []
    for value, v in zip(values, eigenvectors(gram, values).T, strict=True):
        image = wide @ v.astype(wide.dtype)
        row, column = int(np.abs(image).argmax()), int(np.abs(v).argmax())
        weight = float(wide[row, column])
        share = weight * float(image[row]) * float(v[column]) / float(value)
        mode = replace(_describe_mode(matrix, float(value), v), edge=edge, weight=weight, share=share)
        located.append((mode, row * wide.shape[1] + column))
    return located


def eigenvectors(gram: Floats, values: Floats) -> Floats:
    """(m, r): eigenvectors of a few known eigenvalues, by inverse iteration (Golub & Van Loan, §8.2.2), orthonormal.

    Values need not be exact: two steps, the second with the Rayleigh quotient of the first.
    """
    m = len(gram)
    if len(values) > MAX_SOLVED_VECTORS:
        return np.linalg.eigh(gram)[1][:, -len(values) :]
    vectors = np.empty((m, len(values)))
    start = np.random.default_rng(0).standard_normal(m)
    for j, value in enumerate(values):
        v: Floats = start
        shift = float(value)
        for _ in range(2):
            v = np.asarray(np.linalg.solve(gram - shift * (1 + RELATIVE_SHIFT) * np.eye(m), v), np.float64)
            v = v - vectors[:, :j] @ (vectors[:, :j].T @ v)
            v = v / math.sqrt(float(v @ v))
            shift = float(v @ (gram @ v))
        vectors[:, j] = v
    return vectors


def entropy(vector: Floats) -> float:
    """−Σp ln p of the histogram of |v| − mean|v| in 100 bins (Martin & Mahoney, JMLR 22(165), §5)."""
    size = np.abs(vector)
    counts = np.histogram(size - size.mean(), density=True, bins=ENTROPY_BINS)[0]
    p = counts + BIN_OFFSET
    p = p / p.sum()
    return float(-(p * np.log(p)).sum())


def localization_ratio(vector: Floats) -> float:
    """‖v‖₁/‖v‖∞: how many entries as large as the largest the vector has."""
    return float(np.abs(vector).sum() / np.abs(vector).max())


def participation_ratio(vector: Floats) -> float:
    """‖v‖₂/‖v‖₄: its fourth power is the number of entries that take part."""
    squares = np.square(vector)
    return float(math.sqrt(squares.sum()) / np.square(squares).sum() ** 0.25)


def _describe_mode(matrix: int, value: float, v: Floats) -> Mode:
    return Mode(matrix, value, entropy(v), localization_ratio(v), participation_ratio(v))
