"""Estimates of the floating-point operations and peak memory of measuring a layer.

A layer is a stack of k matrices n × m, n ≥ m, with stored entries of ``itemsize`` bytes.
"""

from __future__ import annotations

from layerscope.numerics.spectra import BLOCK_ENTRIES, matrices_at_once

EIGENVECTOR_FACTOR = 10  # cost of all eigenvectors relative to the eigenvalues alone
WINDOWS_PER_MATRIX = 100  # ten positions along each side


def spectrum_flops(k: int, n: int, m: int) -> float:
    """Estimate the operations of :func:`esd`: k·(n·m² for the Gram matrix + 4/3·m³ for the eigenvalues)."""
    return k * (n * m * m + 4.0 / 3.0 * m**3)


def spectrum_bytes(k: int, n: int, m: int, itemsize: int) -> int:
    """Estimate the peak memory of :func:`esd` in bytes: stored tensor, Gram matrices, the solver's copy, blocks."""
    at_once = matrices_at_once(k, m)
    block = at_once * m * min(n, max(BLOCK_ENTRIES // (at_once * m), m // 2, 1))
    return k * n * m * itemsize + 8 * (2 * at_once * m * m + block + 4 * k * m)


def layer_flops(k: int, n: int, m: int, *, shuffles: int = 0, vectors: bool = False, window: int = 0) -> float:
    """Estimate the operations of a layer: its spectrum, shuffles, eigenvectors and windows of (2·window, window)."""
    spectra = 1 + shuffles + EIGENVECTOR_FACTOR * vectors
    windows = spectrum_flops(WINDOWS_PER_MATRIX * k, 2 * window, window) if window <= m else 0.0
    return spectra * spectrum_flops(k, n, m) + windows


def layer_bytes(k: int, n: int, m: int, itemsize: int, *, shuffles: int = 0, vectors: bool = False) -> int:
    """Estimate the peak memory of a layer in bytes: spectrum, shuffles (random words, two copies), eigenvectors."""
    shuffle_bytes = k * n * m * (8 + 2 * itemsize) if shuffles else 0
    return spectrum_bytes(k, n, m, itemsize) + shuffle_bytes + 3 * 8 * m * m * vectors


def low_rank_flops(n: int, m: int, rank: int) -> float:
    """Estimate the operations of a low-rank product (n, m), which is never formed."""
    return spectrum_flops(1, rank, rank) + 2.0 * (n + m) * rank**2


def low_rank_bytes(n: int, m: int, rank: int, itemsize: int) -> int:
    """Return the bytes of the two factors of a low-rank product, as stored and in float64."""
    return (n + m) * rank * (itemsize + 8)


def distance_flops(k: int, n: int, m: int) -> float:
    """Estimate the operations of the distances between a layer of two models."""
    return 3 * spectrum_flops(k, n, m)


def distance_bytes(k: int, n: int, m: int, itemsize: int) -> int:
    """Estimate the peak memory of the distances in bytes: stored tensors, one float64 matrix of each, Gram matrices."""
    return 2 * k * n * m * itemsize + 8 * (3 * n * m + 6 * m * m)
