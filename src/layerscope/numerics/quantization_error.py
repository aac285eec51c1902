"""What quantization did to one tensor: its error, the largest singular values and subspaces, clipped values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import eigh

from layerscope.numerics.weight_change import TOP

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

BLOCK_ENTRIES = 1 << 20  # entries converted at a time
MAX_GRAM = 8192  # shorter side up to which singular values are measured
SCALE_BLOCK = 32  # neighboring values that share a scale in most formats
MIN_CLIPPED = 1.25  # an original above this many times the largest quantized value of its block was clipped


def quantization_error(base: Any, quantized: Any, *, spectra: bool = True) -> dict[str, float]:
    """Return the numbers of one tensor, computed over blocks of rows, so that neither tensor is whole in memory.

    ``relative_error`` ‖Q − W‖_F/‖W‖_F; ``snr_db`` −20 log₁₀ of it; ``worst_error`` max|Q − W| over the root mean
    square of W; ``cosine`` ⟨Q, W⟩/(‖Q‖‖W‖); ``clipped`` share of entries whose magnitude exceeds the largest of their
    block of 32 quantized values by more than a quarter; ``levels`` distinct values per row. With ``spectra``, of
    matrices with a shorter side up to 8192: ``sigma_error``, the largest |σ'ᵢ − σᵢ|/σ₁ of the 10 largest singular
    values, and ``subspace_overlap`` ‖V₀ᵀV‖_F/√k of their singular vectors on the shorter side.

    :param base: original values (rows, …), an array or lazily computed rows.
    :param quantized: decoded values of the same shape.
    """
    rows = base.shape[0]
    width = math.prod(base.shape[1:])
    squares, dot, worst, clipped, finite = np.zeros(3), 0.0, 0.0, 0, True
    levels = []
    shorter = min(rows, width)
    grams: list[Floats] | None = None
    if spectra and 1 < shorter <= MAX_GRAM:
        grams = [np.zeros((shorter, shorter)) for _ in range(2)]
    for start, w, q in _blocks(base, quantized):
        delta = q - w
        squares += [np.vdot(w, w), np.vdot(q, q), np.vdot(delta, delta)]
        dot += float(np.vdot(w, q))
        worst = max(worst, float(np.abs(delta).max()))
        finite = finite and bool(np.isfinite(delta).all())
        clipped += _clipped(w, q)
        if start == 0:
            levels = [len(np.unique(row)) for row in q[:16]]
        if grams is not None and rows >= width:
            grams[0] += w.T @ w
            grams[1] += q.T @ q
    if not finite:
        return {"finite": 0.0}
    if squares[0] == 0:
        return {"finite": 1.0, "relative_error": math.inf if squares[1] else 0.0}
    error = math.sqrt(squares[2] / squares[0])
    numbers = {
        "finite": 1.0,
        "relative_error": error,
        "snr_db": -20 * math.log10(error) if error > 0 else math.inf,
        "worst_error": worst / math.sqrt(squares[0] / (rows * width)),
        "cosine": dot / math.sqrt(squares[0] * squares[1]) if squares[1] > 0 else 0.0,
        "clipped": clipped / (rows * width),
        "levels": float(np.median(levels)),
    }
    if grams is not None:
        if rows < width:
            for gram, tensor in zip(grams, (base, quantized), strict=True):
                whole = np.asarray(tensor, np.float32).reshape(rows, width)
                gram += whole @ whole.T
        numbers |= _spectral_numbers(*grams)
    return numbers


def _blocks(base: Any, quantized: Any) -> Iterator[tuple[int, Array, Array]]:
    rows, width = base.shape[0], math.prod(base.shape[1:])
    step = max(1, BLOCK_ENTRIES // max(1, width))
    for start in range(0, rows, step):
        w, q = (np.asarray(tensor[start : start + step], np.float32).reshape(-1, width) for tensor in (base, quantized))
        yield start, w, q


def _clipped(w: Array, q: Array) -> int:
    """Count originals beyond the range of their quantized block."""
    if w.shape[1] % SCALE_BLOCK:
        return 0
    largest = np.abs(q).reshape(-1, SCALE_BLOCK).max(1, keepdims=True)
    return int(np.count_nonzero(np.abs(w).reshape(-1, SCALE_BLOCK) > MIN_CLIPPED * largest))


def _spectral_numbers(first: Floats, second: Floats) -> dict[str, float]:
    m = len(first)
    k = min(TOP, m)
    (values, vectors), (others, changed) = (eigh(gram, subset_by_index=[m - k, m - 1]) for gram in (first, second))
    sigma, sigma_after = (np.sqrt(np.maximum(v, 0)) for v in (values, others))
    if sigma[-1] <= 0:
        return {}
    return {
        "sigma_error": float(np.abs(sigma_after - sigma).max() / sigma[-1]),
        "subspace_overlap": float(np.linalg.norm(vectors.T @ changed) / math.sqrt(k)),
    }
