"""Spectrum of a Kronecker product, computed from the spectra of its two factors without forming the product.

For symmetric matrices with eigenvalues aᵢ ≥ 0 (m values) and bⱼ ≥ 0 (n values), A ⊗ B has the eigenvalues aᵢbⱼ. Its
largest eigenvalue is a₁b₁; trace, rank and condition number are the products of those of A and B. Percentiles of the
eigenvalues are *not* products of percentiles. They are computed exactly here, in O(m log n) time and O(m + n) memory.
Source: Huang et al., ECCV 2020 (arXiv 2002.10801), Proposition 1; van Loan, J. Comput. Appl. Math. 123 (2000).

All spectra are in ascending order and belong to uncentered covariances. Eigenvalues at or below the rounding error of
the largest one, d·ε·λmax, count as zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Floats

EPS = float(np.finfo(np.float64).eps)
ZERO_TOLERANCE = 1e-13  # eigenvalues below this share of the largest count as zero, whatever the precision of the rows
FLOATS_AROUND_BORDER = 2  # the exact border lies within this many floats of a quotient


def zero_negligible(evals: Floats, eps: float = EPS) -> Floats:
    """Return the eigenvalues ascending, with those at or below max(d·ε, 1e-13)·λmax, and negative ones, set to zero."""
    ascending = np.sort(np.asarray(evals, np.float64))
    if len(ascending):
        ascending[ascending <= max(len(ascending) * eps, ZERO_TOLERANCE) * max(ascending[-1], 0.0)] = 0.0
    return ascending


def rank(evals: Floats, eps: float = EPS) -> int:
    """Return the number of nonzero eigenvalues."""
    return int(np.count_nonzero(zero_negligible(evals, eps)))


def percentile_rank(share: float, count: int) -> int:
    """Return ⌈p/100·count⌉, the rank of the p-th percentile counted from the largest eigenvalue, starting at 1."""
    return min(count, max(1, math.ceil(share / 100 * count - 1e-9)))


def kappa(evals: Floats, share: float = 100.0, eps: float = EPS, count: int | None = None) -> float:
    """Generalized condition number κ_p = λmax / λ_(p), λ_(p) the ⌈p/100·d⌉-th largest; κ₁₀₀ is the usual one.

    The result is infinite if λ_(p) is zero, and NaN if all eigenvalues are zero.

    :param share: p in percent.
    :param count: d, if more than ``len(evals)``; the missing eigenvalues count as zero.
    """
    ascending = zero_negligible(evals, eps)
    if not len(ascending):
        return math.nan
    rank_from_top = percentile_rank(share, len(ascending) if count is None else count)
    return _condition_ratio(
        float(ascending[-1]), float(ascending[-rank_from_top]) if rank_from_top <= len(ascending) else 0.0
    )


def kappa_nonzero(evals: Floats, eps: float = EPS) -> float:
    """Return λmax divided by the smallest nonzero eigenvalue."""
    nonzero = zero_negligible(evals, eps)
    nonzero = nonzero[nonzero > 0]
    return float(nonzero[-1] / nonzero[0]) if len(nonzero) else math.nan


def product_kappa(a: Floats, b: Floats, share: float = 100.0, eps_a: float = EPS, eps_b: float = EPS) -> float:
    """Return κ_p of A ⊗ B; for p < 100 it differs from κ_p(A)·κ_p(B).

    All products are ranked, those of tiny eigenvalues too. Only then is λ_(p) judged: it is zero if an eigenvalue
    of A or B that is nothing but rounding error makes it. The rounding error of a d × d matrix of sums of precision ε
    is at most √d·ε·λmax in norm: its entries err by ε independently of each other (0.04 to 0.7 ε·λmax measured).
    """
    a, b = (np.maximum(np.sort(np.asarray(evals, np.float64)), 0.0) for evals in (a, b))
    if not len(a) or not len(b):
        return math.nan
    top = float(a[-1] * b[-1])
    value = nth_largest_product(a, b, percentile_rank(share, len(a) * len(b)))
    safe_a, safe_b = _above_rounding(a, eps_a), _above_rounding(b, eps_b)
    if value > 0 and not _is_product(safe_a, safe_b, value):
        value = 0.0
    return _condition_ratio(top, value)


def _above_rounding(evals: Floats, eps: float) -> Floats:
    """The eigenvalues, ascending, that exceed the rounding error of the matrix."""
    if not len(evals):
        return evals
    kept: Floats = evals[evals > max(math.sqrt(len(evals)) * eps, ZERO_TOLERANCE) * evals[-1]]
    return kept


def _is_product(a: Floats, b: Floats, value: float) -> bool:
    """Is the value one of all aᵢbⱼ, bit for bit?"""
    if not len(a) or not len(b):
        return False
    above = float(np.nextafter(value, np.inf))
    return _count_products_reaching(a, b, value) > _count_products_reaching(a, b, above)


def nth_largest_product(a: Floats, b: Floats, which: int) -> float:
    """Return the ``which``-th largest (from 1) of all aᵢbⱼ, bit for bit as sorting all products would.

    The function bisects over the bit patterns of positive floats. To count the products at or above a threshold τ, it
    looks up the smallest b with fl(aᵢ·b) ≥ τ for each aᵢ; this border lies within two floats of τ/aᵢ.
    """
    a, b = a[a > 0], b[b > 0]
    if which > len(a) * len(b):
        return 0.0
    if which == len(a) * len(b):
        return float(a[0] * b[0])
    low, high = (int(np.float64(x).view(np.int64)) for x in (a[0] * b[0], a[-1] * b[-1]))
    while low < high:  # find the largest τ that at least ``which`` products reach
        middle = (low + high + 1) // 2
        if _count_products_reaching(a, b, float(np.int64(middle).view(np.float64))) >= which:
            low = middle
        else:
            high = middle - 1
    return float(np.int64(low).view(np.float64))


def effective_rank(evals: Floats) -> float:
    """Effective rank exp(−Σ pᵢ ln pᵢ) with pᵢ = λᵢ/Σλ (Roy & Vetterli 2007).

    It is 1 if one eigenvalue is nonzero, and d if all d eigenvalues are equal.
    """
    ascending = zero_negligible(evals)
    total = float(ascending.sum())
    if total <= 0:
        return math.nan
    shares = ascending[ascending > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _count_products_reaching(a: Floats, b: Floats, threshold: float) -> int:
    """Return the number of products a·b of at least ``threshold``; a and b are positive and ascending."""
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
