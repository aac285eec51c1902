"""The spectrum of a Kronecker product, read off the spectra of its two factors and never formed.

A ⊗ B of symmetric matrices with eigenvalues aᵢ ≥ 0 (m of them) and bⱼ ≥ 0 (n) has the eigenvalues aᵢbⱼ: its largest
is a₁b₁, its trace the product of the traces, its rank the product of the ranks, its condition number the product of
both. What lies in between, the eigenvalue that a share of them reaches, is *not* a product; here it is found exactly in
O(m log n) time and O(m + n) memory. Source: Huang et al., ECCV 2020 (arXiv 2002.10801), Proposition 1; van Loan,
J. Comput. Appl. Math. 123 (2000).

Spectra are ascending, of covariances that are not centred; what is at or below the rounding of the largest is zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Floats

EPS = float(np.finfo(np.float64).eps)
ZERO_TOLERANCE = 1e-13  # relative to the largest: eigenvalues below are zero, however precise the rows were
FLOATS_AROUND_BORDER = 2  # floats around a quotient among which the exact border lies


def zero_negligible(evals: Floats, eps: float = EPS) -> Floats:
    """The same, ascending, with zero for what cannot be told from it: ≤ max(d·ε, 1e-13)·λmax, negative values too."""
    ascending = np.sort(np.asarray(evals, np.float64))
    if len(ascending):
        ascending[ascending <= max(len(ascending) * eps, ZERO_TOLERANCE) * max(ascending[-1], 0.0)] = 0.0
    return ascending


def rank(evals: Floats, eps: float = EPS) -> int:
    """How many eigenvalues are not zero."""
    return int(np.count_nonzero(zero_negligible(evals, eps)))


def percentile_rank(share: float, count: int) -> int:
    """⌈p/100·count⌉, from 1: which of the eigenvalues, from the largest, the p-th percentile is."""
    return min(count, max(1, math.ceil(share / 100 * count - 1e-9)))


def kappa(evals: Floats, share: float = 100.0, eps: float = EPS, count: int | None = None) -> float:
    """Generalised condition number κ_p = λmax / λ_(p), λ_(p) the ⌈p/100·d⌉-th largest; κ₁₀₀ is the usual one.

    Infinite where λ_(p) is zero, NaN where all of them are. ``count``: d, where those that are not here are zero.
    """
    ascending = zero_negligible(evals, eps)
    if not len(ascending):
        return math.nan
    rank_from_top = percentile_rank(share, len(ascending) if count is None else count)
    return _condition_ratio(
        float(ascending[-1]), float(ascending[-rank_from_top]) if rank_from_top <= len(ascending) else 0.0
    )


def kappa_nonzero(evals: Floats, eps: float = EPS) -> float:
    """λmax over the smallest eigenvalue that is not zero."""
    nonzero = zero_negligible(evals, eps)
    nonzero = nonzero[nonzero > 0]
    return float(nonzero[-1] / nonzero[0]) if len(nonzero) else math.nan


def product_kappa(a: Floats, b: Floats, share: float = 100.0, eps: float = EPS) -> float:
    """κ_p of A ⊗ B. For p < 100 it is not κ_p(A)·κ_p(B).

    An eigenvalue of the product is zero where one of its factors is: two small ones that are not make one that is not.
    """
    a, b = zero_negligible(a, eps), zero_negligible(b, eps)
    if not len(a) or not len(b):
        return math.nan
    return _condition_ratio(float(a[-1] * b[-1]), nth_largest_product(a, b, percentile_rank(share, len(a) * len(b))))


def nth_largest_product(a: Floats, b: Floats, which: int) -> float:
    """The ``which``-th largest (from 1) of all aᵢbⱼ, to the last bit what sorting them all would give.

    Bisection over the bits of the positive floats; for each threshold τ the products at or above it are counted by the
    place of the smallest b with fl(aᵢ·b) ≥ τ, which lies within two floats of τ/aᵢ.
    """
    a, b = a[a > 0], b[b > 0]
    if which > len(a) * len(b):
        return 0.0
    if which == len(a) * len(b):
        return float(a[0] * b[0])
    low, high = (int(np.float64(x).view(np.int64)) for x in (a[0] * b[0], a[-1] * b[-1]))
    while low < high:  # the largest τ that at least ``which`` products reach
        middle = (low + high + 1) // 2
        if _count_products_reaching(a, b, float(np.int64(middle).view(np.float64))) >= which:
            low = middle
        else:
            high = middle - 1
    return float(np.int64(low).view(np.float64))


def effective_rank(evals: Floats) -> float:
    """exp(−Σ pᵢ ln pᵢ), pᵢ = λᵢ/Σλ: 1 where one direction holds all, d where all are equal (Roy & Vetterli 2007)."""
    ascending = zero_negligible(evals)
    total = float(ascending.sum())
    if total <= 0:
        return math.nan
    shares = ascending[ascending > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _count_products_reaching(a: Floats, b: Floats, threshold: float) -> int:
    """How many products a·b are at least ``threshold``; a, b positive and ascending."""
    with np.errstate(over="ignore"):
        border = threshold / a
        for _ in range(FLOATS_AROUND_BORDER):
            border = np.nextafter(border, 0.0)
        for _ in range(2 * FLOATS_AROUND_BORDER):
            too_small = a * border < threshold
            border = np.where(too_small, np.nextafter(border, np.inf), border)
    return int(len(a) * len(b) - np.searchsorted(b, border, side="left").sum())


def _condition_ratio(top: float, value: float) -> float:
    if top <= 0:
        return math.nan
    return top / value if value > 0 else math.inf
