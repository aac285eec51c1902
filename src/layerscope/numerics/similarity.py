"""Distances and similarities of spectra and of matrices."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

MAX_LEADING_DIRECTIONS = 10  # maximum dimension of the leading subspaces to compare
MAX_DENSE_ROWS = 256  # up to this number of rows, computing all eigenvectors is cheaper than the leading few


def jensen_shannon(p: Floats, q: Floats) -> float:
    """Return the Jensen–Shannon distance √JSD of two vectors, each divided by its sum (Endres & Schindelin 2003).

    With the natural logarithm, the distance is 0 for equal vectors and at most √ln 2. For sorted spectra it is
    WeightWatcher's rand_distance, without binning.

    :raises ValueError: the lengths differ.
    """
    if len(p) != len(q):
        raise ValueError(f"the spectra have different lengths: {len(p)} and {len(q)} eigenvalues")
    total_p, total_q = float(p.sum()), float(q.sum())
    if total_p <= 0 or total_q <= 0:
        return 0.0 if total_p == total_q else math.sqrt(math.log(2))
    p, q = p / total_p, q / total_q
    middle = (p + q) / 2
    return math.sqrt(max(0.0, (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2))


def _relative_entropy(p: Floats, q: Floats) -> float:
    positive = p > 0
    return float((p[positive] * np.log(p[positive] / q[positive])).sum())


def distances(a: Array, b: Array) -> dict[str, float]:
    """Return distances and similarities of two stacks (k, n, m) of equal shape, computed in float64.

    * frobenius: ‖A−B‖_F
    * relative: ‖A−B‖_F / ‖A‖_F
    * cosine: ⟨A,B⟩ / (‖A‖‖B‖)
    * cka: ‖AᵀB‖²_F / (‖AᵀA‖_F‖BᵀB‖_F), averaged over the stack. This is the linear CKA of Kornblith et al. (ICML 2019)
      without centering; it is 1 if B = cAR for a rotation R of the shorter side.
    * angle, overlap: largest principal angle in degrees and mean squared cosine between the subspaces of the r leading
      right singular vectors (Björck & Golub 1973). The overlap is 1 for equal subspaces and r/m by chance.

    The result is empty if an entry is not finite.
    """
    products: dict[str, list[float]] = {"cka": [], "angle": [], "overlap": []}
    difference = norm_a = norm_b = inner = 0.0
    peaks = [float(max(w.max(), -w.min())) for w in (*a, *b)]
    if not all(map(math.isfinite, peaks)):
        return {}
    peak = max(peaks)
    scale = 1.0 if peak == 0.0 else math.ldexp(1.0, min(1000, math.frexp(peak)[1]))  # keeps fourth powers within range
    for matrix_a, matrix_b in zip(a, b, strict=True):
        x, y = matrix_a.astype(np.float64) / scale, matrix_b.astype(np.float64) / scale
        difference += float(np.square(x - y).sum())
        gram_x, gram_y = x.T @ x, y.T @ y
        norm_a, norm_b = norm_a + float(np.trace(gram_x)), norm_b + float(np.trace(gram_y))
        inner += float((x * y).sum())
        norm_product = float(np.linalg.norm(gram_x) * np.linalg.norm(gram_y))
        if norm_product > 0:
            products["cka"].append(float(np.square(x.T @ y).sum()) / norm_product)
            if len(gram_x) > 1:  # with one column, the leading direction is the whole space
                cosines = np.linalg.svd(_leading_vectors(gram_x).T @ _leading_vectors(gram_y), compute_uv=False).clip(
                    0, 1
                )
                products["angle"].append(math.degrees(math.acos(float(cosines[-1]))))
                products["overlap"].append(float(np.square(cosines).mean()))
    result = {"frobenius": scale * math.sqrt(difference)}
    if norm_a > 0:
        result["relative"] = math.sqrt(difference / norm_a)
    if norm_a > 0 and norm_b > 0:
        result["cosine"] = inner / math.sqrt(norm_a * norm_b)
    result |= {name: statistics.fmean(values) for name, values in products.items() if values}
    return result


def _leading_vectors(gram: Floats) -> Floats:
    """Return the eigenvectors (m, r) of the largest eigenvalues; r = m/10, but 1 to MAX_LEADING_DIRECTIONS."""
    m = len(gram)
    r = max(1, min(MAX_LEADING_DIRECTIONS, m // 10))
    return top_vectors(gram, r)[1]


def top_vectors(gram: Floats, r: int) -> tuple[Floats, Floats]:
    """Return the r largest eigenvalues, ascending, and their eigenvectors, by LAPACK or by Lanczos."""
    m = len(gram)
    if m <= MAX_DENSE_ROWS or r > m // 4:
        values, vectors = np.linalg.eigh(gram)
        return values[-r:], vectors[:, -r:]
    from scipy.sparse.linalg import ArpackError, eigsh

    start = np.random.default_rng(0).standard_normal(m)
    try:
        values, vectors = eigsh(gram, k=r, which="LA", v0=start)
    except ArpackError:  # Lanczos did not converge
        values, vectors = np.linalg.eigh(gram)
        return values[-r:], vectors[:, -r:]
    order = np.argsort(values)
    return values[order], vectors[:, order]


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation; NaN for fewer than two pairs or if one side is constant."""
    from scipy.stats import spearmanr

    if len(a) < 2 or len(set(a)) < 2 or len(set(b)) < 2:
        return math.nan
    return float(spearmanr(a, b).statistic)


def linear_cka(x: Array, y: Array) -> float:
    """Return the linear CKA of two representations of the same examples; NaN if one of them is constant.

    CKA is ‖XcᵀYc‖²_F / (‖XcᵀXc‖_F‖YcᵀYc‖_F) with centered columns Xc, Yc (Kornblith et al., ICML 2019, eq. 4). It is
    computed over examples or over features, whichever are fewer.

    :param x: first representation, one row per example.
    :param y: second representation, one row per example.
    """
    a, b = (np.asarray(rows, np.float64) - np.asarray(rows, np.float64).mean(0) for rows in (x, y))
    if len(a) < max(a.shape[1], b.shape[1]):
        gram_a, gram_b = a @ a.T, b @ b.T
        cross = float((gram_a * gram_b).sum())
    else:
        gram_a, gram_b = a.T @ a, b.T @ b
        cross = float(np.square(a.T @ b).sum())
    norms = float(np.linalg.norm(gram_a) * np.linalg.norm(gram_b))
    return cross / norms if norms > 0 else math.nan
