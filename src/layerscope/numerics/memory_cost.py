"""Floating-point operations and peak memory of measuring a layer, estimated from its sizes.

A layer is a stack of k matrices n × m, n ≥ m, whose entries take ``itemsize`` bytes as stored.
"""

from __future__ import annotations

from layerscope.numerics.spectra import BLOCK_ENTRIES, matrices_at_once

EIGENVECTOR_FACTOR = 10  # all eigenvectors cost about ten times the eigenvalues
WINDOWS_PER_MATRIX = 100  # ten positions along each side


def spectrum_flops(k: int, n: int, m: int) -> float:
    """Operations of :func:`esd`: k·(n·m² for the Gram matrix + 4/3·m³ for the eigenvalues)."""
    return k * (n * m * m + 4.0 / 3.0 * m**3)


def spectrum_bytes(k: int, n: int, m: int, itemsize: int) -> int:
    """Bytes that :func:`esd` holds at its peak: the tensor as stored, Gram matrices, the solver's copy, blocks."""
    at_once = matrices_at_once(k, m)
    block = at_once * m * min(n, max(BLOCK_ENTRIES // (at_once * m), m // 2, 1))
    return k * n * m * itemsize + 8 * (2 * at_once * m * m + block + 4 * k * m)


def layer_flops(k: int, n: int, m: int, *, shuffles: int = 0, vectors: bool = False, window: int = 0) -> float:
    """Operations of a layer: its spectrum and those of its shuffles, eigenvectors, windows of (2·window, window)."""
    spectra = 1 + shuffles + EIGENVECTOR_FACTOR * vectors
    windows = spectrum_flops(WINDOWS_PER_MATRIX * k, 2 * window, window) if window <= m else 0.0
    return spectra * spectrum_flops(k, n, m) + windows


def layer_bytes(k: int, n: int, m: int, itemsize: int, *, shuffles: int = 0, vectors: bool = False) -> int:
    """Bytes of a layer at its peak: the spectrum's, random words and two copies for shuffles, eigenvectors."""
    shuffle_bytes = k * n * m * (8 + 2 * itemsize) if shuffles else 0
    return spectrum_bytes(k, n, m, itemsize) + shuffle_bytes + 3 * 8 * m * m * vectors


def low_rank_flops(n: int, m: int, rank: int) -> float:
    """Operations of a product (n, m) of this rank, which is never formed."""
    return spectrum_flops(1, rank, rank) + 2.0 * (n + m) * rank**2


def low_rank_bytes(n: int, m: int, rank: int, itemsize: int) -> int:
    """Bytes of its two factors, as stored and in float64."""
    return (n + m) * rank * (itemsize + 8)


def distance_flops(k: int, n: int, m: int) -> float:
    """Operations of the distances of one layer of two models."""
    return 3 * spectrum_flops(k, n, m)


def distance_bytes(k: int, n: int, m: int, itemsize: int) -> int:
    """Bytes that these hold at their peak: both tensors as stored, one matrix of each in float64, Gram matrices."""
    return 2 * k * n * m * itemsize + 8 * (3 * n * m + 6 * m * m)
