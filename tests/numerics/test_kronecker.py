"""Condition numbers of Kronecker products against sorting every product."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerscope.numerics.kronecker import (
    effective_rank,
    kappa,
    nth_largest_product,
    percentile_rank,
    product_kappa,
    rank,
)

SHARES = (1, 20, 33.3, 50, 80, 99.9, 100)


def brute(a: np.ndarray, b: np.ndarray, share: float) -> float:
    every = np.sort(np.multiply.outer(a, b).ravel())
    value = every[-percentile_rank(share, len(every))]
    return every[-1] / value if value > 0 else math.inf


@pytest.mark.parametrize("shape", [(7, 5), (1, 9), (40, 300), (300, 300)])
@pytest.mark.parametrize("kind", ["spread", "ties", "zeros", "equal"])
def test_every_share_is_that_of_all_products_sorted(
    shape: tuple[int, int], kind: str, rng: np.random.Generator
) -> None:
    a, b = (10.0 ** rng.uniform(-8, 3, size) for size in shape)
    if kind == "ties":
        a, b = np.round(np.log10(a)), np.round(np.log10(b))
        a, b = 2.0**a, 3.0**b
    if kind == "zeros":
        a[: len(a) // 3], b[: len(b) // 4] = 0.0, 0.0
    if kind == "equal":
        a, b = np.full(len(a), 0.3), np.full(len(b), 0.7)
    for share in SHARES if max(shape) > 100 else range(1, 101):
        assert product_kappa(a, b, share) == brute(a, b, share)


EIGENVALUES = st.just(0.0) | st.floats(1e-150, 1e6)  # products are normal numbers: subnormal ones have fewer bits


@settings(max_examples=200, deadline=None)
@given(
    st.lists(EIGENVALUES, min_size=1, max_size=12),
    st.lists(EIGENVALUES, min_size=1, max_size=12),
    st.data(),
)
def test_any_product_is_found_to_the_last_bit(a: list[float], b: list[float], data: st.DataObject) -> None:
    x, y = np.sort(a), np.sort(b)
    every = np.sort(np.multiply.outer(x[x > 0], y[y > 0]).ravel())[::-1]
    which = data.draw(st.integers(1, len(a) * len(b)))
    assert nth_largest_product(x, y, which) == (every[which - 1] if which <= len(every) else 0.0)


def test_the_share_of_a_product_is_not_the_product_of_shares() -> None:
    a, b = np.array([0.0, 1, 2, 4, 9, 20, 60]), np.array([1.0, 3, 4, 8, 30])
    assert product_kappa(a, b, 50) != kappa(a, 50) * kappa(b, 50)
    whole = np.array([1.0, 2, 5]), np.array([1.0, 7])
    assert product_kappa(*whole, 100) == kappa(whole[0]) * kappa(whole[1]) == 35.0


def test_the_place_is_counted_from_one_and_rounded_up() -> None:
    assert [percentile_rank(p, 10) for p in (0.1, 1, 10, 10.1, 50, 99.9, 100)] == [1, 1, 1, 2, 5, 10, 10]
    assert kappa(np.array([1.0, 2, 4, 8]), 50) == 2.0
    assert kappa(np.array([1.0, 2, 4, 8]), 75) == 4.0


def test_zeros_make_it_infinite_and_nothing_makes_it_nan() -> None:
    evals = np.array([-1e-18, 0.0, 1e-20, 1.0, 4.0])
    assert kappa(evals, 40) == 4.0
    assert kappa(evals, 60) == math.inf
    assert rank(evals) == 2
    assert math.isnan(kappa(np.zeros(3)))
    assert math.isnan(kappa(np.zeros(0)))
    assert math.isnan(product_kappa(np.zeros(3), np.ones(2)))
    assert product_kappa(evals, np.ones(2), 41) == math.inf


def test_two_small_factors_that_are_not_zero_make_a_product_that_is_not() -> None:
    a = np.array([1e-9, 1.0])
    assert product_kappa(a, a) == pytest.approx(1e18)


def test_products_are_ranked_before_any_eigenvalue_counts_as_zero() -> None:
    a, b = np.array([1.0] * 8 + [1e-3] * 32 + [7e-6] * 24), np.array([1.0] * 32 + [1e-3] * 32)
    eps = float(np.finfo(np.float32).eps)
    assert product_kappa(a, b, 50, eps, eps) == pytest.approx(1 / 7e-6)
    assert product_kappa(a, b, 50) == pytest.approx(1 / 7e-6)


@pytest.mark.parametrize("rows", [21, 40, 63])
@pytest.mark.parametrize("spread", [0, 2])
def test_rounding_error_of_sums_in_float32_is_no_eigenvalue(rows: int, spread: int, rng: np.random.Generator) -> None:
    d = 64
    x = (rng.normal(size=(rows, d)) * np.logspace(0, -spread, d)).astype(np.float32)
    gram = x.T @ x
    assert gram.dtype == np.float32
    evals, eps = np.linalg.eigvalsh(gram.astype(np.float64)), float(np.finfo(np.float32).eps)
    for share in (10, 50, 90, 100):
        is_in_rank = percentile_rank(share, d * d) <= rows * d
        assert math.isfinite(product_kappa(evals, np.ones(d), share, eps)) == is_in_rank


def test_the_effective_rank_counts_equal_directions() -> None:
    assert effective_rank(np.ones(17)) == pytest.approx(17)
    assert effective_rank(np.array([0.0, 0.0, 3.0])) == pytest.approx(1)
    assert math.isnan(effective_rank(np.zeros(4)))


def test_a_large_product_is_never_formed(rng: np.random.Generator) -> None:
    a, b = (rng.pareto(1.0, 4096) for _ in range(2))
    product_kappa(a[:8], b[:8], 50)
    tracemalloc.start()
    product_kappa(a, b, 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


@pytest.mark.parametrize("eps", [np.finfo(np.float32).eps, np.finfo(np.float64).eps])
def test_zero_is_what_rounding_leaves(eps: float, rng: np.random.Generator) -> None:
    x = rng.standard_normal((50, 20)).astype(np.float32 if eps > 1e-10 else np.float64)
    evals = np.linalg.eigvalsh(x @ x.T)
    assert rank(evals, eps) == 20
    assert kappa(evals, 40, eps) < 1e4
    assert kappa(evals, 42, eps) == math.inf
