"""Eigenvalues, traces and densities by products alone, against dense float64 algebra."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerscope.numerics.lanczos_quadrature import density, largest, negative_mass, quadrature
from tests.requirements import require


def matrix(evals: Any, seed: int = 0) -> Any:
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(evals), len(evals))))
    return (q * np.asarray(evals)) @ q.T


@pytest.mark.parametrize("most", [20, 60, 90])
def test_a_dominant_eigenvalue_is_found_once_and_multiple_ones_as_often_as_they_are(most: int) -> None:
    rng = np.random.default_rng(1)
    evals = np.concatenate([[1000.0, 3.0, 3.0, 3.0, 2.5], rng.uniform(-1, 1, 195)])
    a = matrix(evals)
    found = largest(lambda v: a @ v, np.zeros(200), 5, rtol=1e-10, max_products=most)
    assert (np.diff(found.values) <= 0).all()
    if most >= 60:
        assert found.values == pytest.approx([1000, 3, 3, 3, 2.5], rel=1e-4)
    assert np.count_nonzero(found.values > 900) == 1
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.abs(evals - value).min() <= residual + 1e-9  # what a residual promises


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 10_000))
def test_all_of_a_small_matrix_are_exact(n: int, k: int, seed: int) -> None:
    evals = np.sort(np.random.default_rng(seed).integers(-3, 4, n).astype(float))[::-1]  # many ties and zeros
    a = matrix(evals, seed)
    found = largest(lambda v: a @ v, np.zeros(n), k, rtol=1e-9)
    assert found.values == pytest.approx(evals[:k], abs=1e-7)
    assert found.products <= n
    assert found.least >= evals[-1] - 1e-7


def test_vectors_and_the_smallest_one() -> None:
    evals = np.concatenate([[9.0, 7.0], np.linspace(-1, 1, 98), [-20.0]])
    a = matrix(evals)
    found = largest(lambda v: a @ v, np.zeros(101), 2, rtol=1e-6, vectors=True)
    for value, residual, vector in zip(found.values, found.residuals, found.vectors, strict=True):
        assert np.linalg.norm(vector) == pytest.approx(1)
        assert np.linalg.norm(a @ vector - value * vector) == pytest.approx(residual, abs=1e-6)
    assert found.least == pytest.approx(-20, rel=1e-3)


def test_what_is_not_symmetric_is_told() -> None:
    a = matrix(np.linspace(-1, 2, 50))
    assert largest(lambda v: a @ v, np.zeros(50), 3).asymmetry < 1e-12
    b = a + 0.1 * np.triu(a)
    assert largest(lambda v: b @ v, np.zeros(50)).asymmetry > 0.01


def test_a_zero_matrix_and_a_budget_that_is_too_small() -> None:
    found = largest(lambda v: 0 * v, np.zeros(30), 2)
    assert found.values.tolist() == [0, 0]
    assert found.converged
    a = matrix(np.linspace(0, 1, 300))
    short = largest(lambda v: a @ v, np.zeros(300), 1, rtol=1e-12, max_products=5)
    assert not short.converged
    assert short.products == 5
    assert short.residuals[0] > 1e-3


def test_tensors_are_as_good_as_arrays() -> None:
    torch: Any = require("torch")
    a = matrix(np.concatenate([[5.0, 4.0], np.linspace(-1, 1, 60)]))
    t = torch.tensor(a)
    one, other = largest(lambda v: a @ v, np.zeros(62), 2), largest(lambda v: t @ v, torch.zeros(62).double(), 2)
    assert one.values == pytest.approx(other.values, rel=1e-10)
    narrow = largest(lambda v: t.float() @ v, torch.zeros(62), 2)
    assert narrow.values == pytest.approx([5, 4], rel=1e-5)


def test_the_standard_error_covers_the_trace() -> None:
    evals = np.random.default_rng(3).exponential(1, 80)
    a, covered = matrix(evals), 0
    for seed in range(200):
        found = quadrature(lambda v: a @ v, np.zeros(80), probes=20, seed=seed)
        covered += abs(found.trace - evals.sum()) <= 2 * found.trace_error
    assert 180 <= covered <= 200  # 94 % of 200 by Student's t with 19 degrees of freedom


def test_the_quadrature_has_the_moments_of_the_density() -> None:
    evals = np.concatenate([np.full(30, -1.0), np.linspace(0, 1, 60), [8.0] * 10])
    a = matrix(evals)
    found = quadrature(lambda v: a @ v, np.zeros(100), probes=40, steps=25, seed=0)
    assert found.weights.sum(1) == pytest.approx(np.ones(40))
    for power in (1, 2, 4):
        truth = (evals**power).mean()
        assert float((found.weights * found.nodes**power).sum(1).mean()) == pytest.approx(truth, rel=0.15)
    assert negative_mass(found.nodes, found.weights, 0.1) == pytest.approx(0.3, abs=0.05)
    grid = np.linspace(-3, 12, 3000)
    curve = density(found.nodes, found.weights, grid, 0.1)
    assert float(curve.sum() * (grid[1] - grid[0])) == pytest.approx(1, rel=1e-3)
    assert float(curve[(grid > 7)].sum() * (grid[1] - grid[0])) == pytest.approx(0.1, abs=0.03)


def test_an_invariant_start_ends_the_quadrature_early() -> None:
    found = quadrature(lambda v: 2 * v, np.zeros(50), probes=3, steps=10)
    assert found.trace == pytest.approx(100)
    assert found.trace_error == pytest.approx(0, abs=1e-9)
    assert (found.weights[:, 1:] == 0).all()
