"""Localization of eigenvectors: how evenly an eigenvector is spread over its entries."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from layerscope.numerics.spectrum import Mode

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

ENTROPY_BINS = 100  # bins of the histogram of an eigenvector's entries (WeightWatcher's discrete_entropy)
MAX_SOLVED_VECTORS = 8  # up to this number, inverse iteration is cheaper than computing all eigenvectors
RELATIVE_SHIFT = 1e-9  # relative shift that keeps the linear systems from being singular
BIN_OFFSET = 1e-10  # added to each bin, as WeightWatcher does


def all_modes(stack: Array) -> tuple[Mode, ...]:
    """Return the modes of all eigenvectors of each WᵀW, sorted by eigenvalue over the whole stack, ascending."""
    modes = []
    for i, matrix in enumerate(stack):
        precise = matrix.astype(np.float64)
        values, vectors = np.linalg.eigh(precise.T @ precise)
        modes += [_describe_mode(i, max(0.0, float(value)), vectors[:, j]) for j, value in enumerate(values)]
    return tuple(sorted(modes, key=lambda mode: mode.value))


def locate_modes(wide: Array, gram: Floats, values: Floats, matrix: int, edge: float) -> list[tuple[Mode, int]]:
    """Return (mode, position) for a few eigenvalues of one matrix W (n, m).

    ``position`` is the index, in the flattened matrix, of the entry that contributes most to the mode: the largest
    |uᵢvⱼ| of the singular vectors u and v. The mode's ``share`` is Wᵢⱼuᵢvⱼ/σ, this entry's share of the singular value.

    :param gram: Gram matrix WᵀW (m, m).
    :param values: the eigenvalues.
    :param matrix: index of the matrix in its stack.
    :param edge: edge of the random bulk that the eigenvalues exceed, in units of W².
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
    """Return orthonormal eigenvectors (m, r) of r known eigenvalues, by inverse iteration (Golub & Van Loan, §8.2.2).

    The eigenvalues need not be exact: the second of two steps uses the Rayleigh quotient of the first.
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
    """Return −Σp ln p of the histogram of |v| − mean|v| in 100 bins (Martin & Mahoney, JMLR 22(165), §5)."""
    size = np.abs(vector)
    counts = np.histogram(size - size.mean(), density=True, bins=ENTROPY_BINS)[0]
    p = counts + BIN_OFFSET
    p = p / p.sum()
    return float(-(p * np.log(p)).sum())


def localization_ratio(vector: Floats) -> float:
    """Return ‖v‖₁/‖v‖∞: the number of entries that are about as large as the largest one."""
    return float(np.abs(vector).sum() / np.abs(vector).max())


def participation_ratio(vector: Floats) -> float:
    """Return ‖v‖₂/‖v‖₄; its fourth power is the effective number of nonzero entries."""
    squares = np.square(vector)
    return float(math.sqrt(squares.sum()) / np.square(squares).sum() ** 0.25)


def _describe_mode(matrix: int, value: float, v: Floats) -> Mode:
    return Mode(matrix, value, entropy(v), localization_ratio(v), participation_ratio(v))
