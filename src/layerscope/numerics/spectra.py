"""Compute the eigenvalues of a stack of matrices.

λ are the eigenvalues of WᵀW, i.e. squared singular values of W, pooled over the stack. They are computed from a float64
Gram matrix, built block by block, with LAPACK's symmetric eigensolver, which is three to five times faster than an SVD.
This resolves singular values down to about 10⁻⁷ of the largest, the precision of float32 weights of similar size.
Float64 weights with smaller eigenvalues are measured again with an SVD.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from layerscope.errors import Absent
from layerscope.numerics import lanczos_quadrature
from layerscope.numerics.lapack_eigenvalues import eigvalsh
from layerscope.numerics.spectrum import Spectrum

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

EPS64, EPS32 = (float(np.finfo(dtype).eps) for dtype in (np.float64, np.float32))
FLOAT64 = np.dtype(np.float64)
BLOCK_ENTRIES = 1 << 21  # entries converted to float64 at a time (16 MiB)
MAX_GRAM_ENTRIES = 1 << 22  # most entries of Gram matrices in memory at once
MAX_UNRESOLVED_SHARE = 0.05  # largest share of eigenvalues below float32's resolution; random square matrices: 0.01
TOP_EIGENVALUE_RTOL = 1e-5  # relative residual at which the largest eigenvalue counts as converged
SAFE_RANGE_FLOAT32 = (1e-25, 1e30)  # range of sums of squares without under- or overflow in float32
SAFE_RANGE_FLOAT64 = (1e-200, 1e200)  # range of sums of squares without under- or overflow in float64


def esd(stack: Array, *, symmetric: bool = False, rough: bool = False) -> Spectrum:
    """Return the empirical spectral density of a stack (k, n, m): all k·m eigenvalues, ascending.

    The spectrum's ``floor`` is the larger of two limits: the resolution of the arithmetic, m·ε₆₄·λmax, and that of the
    weights. Rounding to a dtype of unit roundoff u adds a random matrix with entries of about u·w, whose largest
    eigenvalue is (u·w·(√n+√m))². Here w is the size of the entries in a typical column or row (the smaller of the two
    medians), so that a few huge entries do not hide the others. Both limits scale with W.

    :param symmetric: the matrices are symmetric (covariances); return their own eigenvalues instead of those of WᵀW.
    :param rough: use float32 arithmetic for weights of at most 32 bits. It takes half the time and resolves eigenvalues
        to 10⁻⁶ of the largest, which is enough for shuffles.
    :raises Absent: entries are NaN or infinite, or their squares exceed the range of float64.
    """
    evals, scale, eps = eigenvalues(stack, symmetric=symmetric, rough=rough)
    return spectrum_of_eigenvalues(stack, evals, scale, eps, symmetric=symmetric)


def eigenvalues(stack: Array, *, symmetric: bool = False, rough: bool = False) -> tuple[Floats, float, float]:
    """Return (eigenvalues (k, m) times scale², scale, ε of the arithmetic used)."""
    k, _, m = stack.shape
    if rough and not symmetric and stack.dtype.itemsize <= 4:
        evals, trace = _eigenvalues_and_trace(stack, 1.0, np.dtype(np.float32))
        # use float64 if a few huge entries hide the bulk in float32, or if squares leave the range of float32
        unresolved_share = (evals <= m * EPS32 * evals.max(initial=0.0)).mean()
        if SAFE_RANGE_FLOAT32[0] < trace < SAFE_RANGE_FLOAT32[1] and unresolved_share <= MAX_UNRESOLVED_SHARE:
            return evals.reshape(k, m), 1.0, EPS32
    if symmetric:  # covariances summed in float32 have no more precision than a float32 solver resolves
        evals, scale = _symmetric_eigenvalues(stack)
        return evals.reshape(-1, m), scale, EPS32 if stack.dtype == np.float32 else EPS64
    evals, scale = _gram_eigenvalues(stack)
    return evals.reshape(-1, m), scale, EPS64


def spectrum_of_eigenvalues(
    stack: Array, evals: Floats, scale: float, eps: float, *, symmetric: bool = False
) -> Spectrum:
    """Build the spectrum of a stack from the eigenvalues of its matrices."""
    k, n, m = stack.shape
    power = 1 if symmetric else 2
    resolved = m * eps * float(evals.max(initial=0.0))
    if not symmetric and stack.dtype == np.float64 and float(evals.min(initial=0.0)) <= resolved:
        evals = np.square(np.linalg.svd(stack * scale, compute_uv=False)).ravel()
        resolved = (n * EPS64) ** 2 * float(evals.max(initial=0.0))
    evals = np.sort(np.maximum(evals, 0.0), axis=None)
    floor = resolved if symmetric else max(resolved, _rounding_floor(stack, evals, scale))
    with np.errstate(over="ignore", under="ignore"):
        for _ in range(power):
            evals, floor = evals / scale, floor / scale
    if scale != 1.0 and not 0.0 < evals[-1] < math.inf:
        raise Absent(f"weights of magnitude {_largest_magnitude(stack):.1e}: their squares exceed the range of float64")
    return Spectrum(evals, n, m, k, floor)


def scaled(spectrum: Spectrum, factor: float) -> Spectrum:
    """Return the spectrum with every eigenvalue multiplied by ``factor``."""
    if factor == 1.0:
        return spectrum
    s = spectrum
    return Spectrum(s.evals * factor, s.n, s.m, s.k, s.floor * factor, s.complete)


def inverted(spectrum: Spectrum) -> Spectrum:
    """Return 1/λ of the eigenvalues above the floor, ascending: the spectrum of the pseudo-inverse's Gram matrix.

    :raises Absent: all weights are zero.
    """
    s = spectrum
    if not len(s.live):
        raise Absent("all weights are zero, so the spectrum has no inverse")
    return Spectrum(1 / s.live[::-1], s.n, s.m, s.k, 0.0, complete=False)


def product_spectrum(spectrum: Spectrum, n: int, m: int) -> Spectrum:
    """Return the spectrum of a low-rank product (n, m) from the spectrum of its core of rank r.

    The m − r other eigenvalues are zero and not included; if r > m, the r − m smallest ones are dropped.
    """
    return Spectrum(spectrum.evals[-m:], n, m, 1, spectrum.floor, complete=False)


def largest_eigenvalues(stack: Array) -> Spectrum:
    """Return the largest eigenvalue of each matrix of a symmetric stack, for matrices too large for all eigenvalues.

    :raises Absent: entries are NaN or infinite.
    """
    k, n, m = stack.shape
    _largest_magnitude(stack)
    products = (np.asarray(matrix, np.float64).__matmul__ for matrix in stack)
    extremes = [lanczos_quadrature.largest(product, np.zeros(m), rtol=TOP_EIGENVALUE_RTOL) for product in products]
    evals = np.sort([max(0.0, float(extreme.values[0])) for extreme in extremes])
    return Spectrum(evals, n, m, k, EPS32 * float(evals[-1]), complete=False)


def median_of(ascending: Floats) -> float:
    """Return the median of sorted numbers; ``np.median`` would import numpy.ma, which takes a tenth of a second."""
    half = len(ascending) // 2
    return float(ascending[half] + ascending[~half]) / 2


@functools.cache
def unit_roundoff(dtype: np.dtype) -> float:
    """Return the unit roundoff of a dtype (half its spacing at 1), the largest relative rounding error of an entry."""
    if dtype.kind == "f" and dtype.itemsize in (2, 4, 8):
        return float(np.finfo(dtype).eps) / 2
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps) / 2


@functools.cache
def smallest_subnormal(dtype: np.dtype) -> float:
    """Return the smallest positive number of a dtype."""
    if dtype.kind == "f" and dtype.itemsize in (2, 4, 8):
        return float(np.finfo(dtype).smallest_subnormal)
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).smallest_subnormal)


def _rounding_floor(stack: Array, evals: Floats, scale: float) -> float:
    """Return the largest eigenvalue that rounding the weights to their dtype can cause, in units of (W·scale)²."""
    k, n, m = stack.shape
    edge_factor, roundoff = (math.sqrt(n) + math.sqrt(m)) ** 2, unit_roundoff(stack.dtype)
    # assume first that all entries have the same size
    uniform_floor: float = roundoff * roundoff * edge_factor * float(evals.sum()) / (k * n * m)
    if float(evals[0]) > uniform_floor:
        return uniform_floor  # no eigenvalue is near the floor, so a closer estimate is not needed
    columns, rows, step = np.zeros((k, m)), np.empty((k, n)), max(1, BLOCK_ENTRIES // m)
    for i in range(k):
        for start in range(0, n, step):
            squares = np.square(stack[i, start : start + step].astype(np.float64) * scale)
            columns[i] += squares.sum(axis=0) / n
            rows[i, start : start + step] = squares.mean(axis=1)
    typical_square = min(median_of(np.sort(side[side > 0])) if side.any() else 0.0 for side in (columns, rows))
    smallest_error = smallest_subnormal(stack.dtype) * scale / 2  # rounding below the normal range is absolute
    return max(roundoff * roundoff * typical_square, smallest_error * smallest_error) * edge_factor


def _largest_magnitude(stack: Array) -> float:
    """Return the largest magnitude of the entries.

    :raises Absent: entries are NaN or infinite; the message states how many.
    """
    stack = np.asarray(stack)
    if stack.dtype.itemsize < 2 or stack.dtype.kind != "f":  # min and max are unreliable on narrow floats: widen first
        extremes = [(float(w.max()), float(w.min())) for w in (s.astype(np.float32) for s in stack)]
        high, low = (np.array(e) for e in zip(*extremes, strict=True))
        peak = float(np.maximum(high.max(), -low.min()))
    else:
        peak = max(float(stack.max()), -float(stack.min()))
    if math.isfinite(peak):
        return peak
    nans = sum(int(np.isnan(s.astype(np.float64)).sum()) for s in stack)
    infs = sum(int(np.isinf(s.astype(np.float64)).sum()) for s in stack)
    raise Absent(f"{nans} NaN and {infs} infinite entries of {stack.size}")


def _symmetric_eigenvalues(stack: Array) -> tuple[Floats, float]:
    """Return the eigenvalues of symmetric matrices times a power of two, and that power of two."""
    peak = _largest_magnitude(stack)
    if stack.dtype == np.float32 and (peak == 0.0 or SAFE_RANGE_FLOAT32[0] < peak < SAFE_RANGE_FLOAT32[1]):
        return np.concatenate([eigvalsh(np.asarray(matrix)[None])[0] for matrix in stack]).astype(np.float64), 1.0
    scale = (
        1.0
        if peak == 0.0 or SAFE_RANGE_FLOAT64[0] < peak < SAFE_RANGE_FLOAT64[1]
        else math.ldexp(1.0, min(1023, -math.frexp(peak)[1]))
    )
    return np.concatenate([eigvalsh(np.asarray(matrix, np.float64)[None] * scale)[0] for matrix in stack]), scale


def _gram_eigenvalues(stack: Array) -> tuple[Floats, float]:
    """Return the eigenvalues of the Gram matrices of stack · scale, and the scale.

    The scale is a power of two that keeps squares within range, usually 1.
    """
    evals, trace = _eigenvalues_and_trace(stack, 1.0)
    if SAFE_RANGE_FLOAT64[0] < trace < SAFE_RANGE_FLOAT64[1]:
        return evals, 1.0
    peak = _largest_magnitude(stack)
    if peak == 0.0:
        return evals, 1.0
    scale = math.ldexp(1.0, min(1023, -math.frexp(peak)[1]))
    return _eigenvalues_and_trace(stack, scale)[0], scale


def _eigenvalues_and_trace(stack: Array, scale: float, dtype: np.dtype = FLOAT64) -> tuple[Floats, float]:
    """Return eigenvalues and trace of the Gram matrices; stop early if the trace is NaN or infinite."""
    k, _, m = stack.shape
    step = matrices_at_once(k, m)
    evals, trace = [], 0.0
    for i in range(0, k, step):
        with np.errstate(over="ignore", invalid="ignore"):  # checked by means of the trace
            gram = _gram_matrices(stack if k == 1 else stack[i : i + step], scale, dtype)
        trace += float(np.trace(gram, axis1=1, axis2=2).sum())
        if not math.isfinite(trace):
            break
        evals.append(eigvalsh(gram).ravel().astype(np.float64))
    return np.concatenate([np.empty(0), *evals]), trace


def _gram_matrices(stack: Array, scale: float, dtype: np.dtype = FLOAT64) -> Array:
    """Return WᵀW of each matrix, accumulated over blocks of rows so that W is never converted as a whole."""
    k, n, m = stack.shape
    is_contiguous = isinstance(stack, np.ndarray) and stack.strides[-1] in (stack.itemsize, stack.itemsize * n)
    if is_contiguous and stack.dtype == dtype and scale == 1.0:
        product: Array = np.matmul(stack.transpose(0, 2, 1), stack)
        return product
    rows = min(n, max(1, BLOCK_ENTRIES // (k * m), m // 2))
    converted = np.empty((k, rows, m), dtype)
    gram: Array | None = None
    for i in range(0, n, rows):
        block = converted[:, : min(rows, n - i)]
        np.copyto(block, stack[:, i : i + rows], casting="same_kind")
        if scale != 1.0:
            block *= scale
        product = np.matmul(block.transpose(0, 2, 1), block)
        gram = product if gram is None else np.add(gram, product, out=gram)
    assert gram is not None
    return gram


def matrices_at_once(k: int, m: int) -> int:
    """Return the number of Gram matrices (m, m), of k, to hold in memory at once."""
    return max(1, min(k, MAX_GRAM_ENTRIES // (m * m)))
