"""Exact Fisher spectra by the Gram matrix against the dense matrix of per-example gradients."""

from __future__ import annotations

import numpy as np
import pytest

from layerscope.numerics.fisher_spectrum import gram, quality, spectrum


def dense(x: np.ndarray, d: np.ndarray) -> np.ndarray:
    g = np.einsum("nto,nti->noi", d, x).reshape(len(x), -1)
    return g.T @ g / len(x)


@pytest.mark.parametrize("positions", [1, 4])
@pytest.mark.parametrize("n", [3, 12, 60])
def test_the_spectrum_is_that_of_the_dense_block(n: int, positions: int, rng: np.random.Generator) -> None:
    x, d = rng.standard_normal((n, positions, 5)), rng.standard_normal((n, positions, 4))
    found, truth = spectrum(gram(x, d)), np.linalg.eigvalsh(dense(x, d))
    count = min(len(found), len(truth))
    assert np.allclose(found[-count:], truth[-count:], atol=1e-12 * truth[-1])
    assert len(found) == n


def test_blocks_of_positions_are_the_whole(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerscope.numerics import fisher_spectrum

    x, d = rng.standard_normal((7, 3, 5)), rng.standard_normal((7, 3, 4))
    whole = gram(x, d)
    monkeypatch.setattr(fisher_spectrum, "BLOCK_ENTRIES", 130)
    assert np.allclose(gram(x, d), whole, rtol=1e-13)


def test_layers_sum_to_the_full_matrix_and_bound_it(rng: np.random.Generator) -> None:
    layers = [(rng.standard_normal((20, 1, p)), rng.standard_normal((20, 1, q))) for p, q in ((5, 4), (4, 3), (6, 2))]
    gradients = [np.einsum("nto,nti->noi", d, x).reshape(20, -1) for x, d in layers]
    whole = np.concatenate(gradients, 1)
    truth = np.linalg.eigvalsh(whole.T @ whole / 20)[-20:]
    grams = [gram(x, d) for x, d in layers]
    assert np.allclose(spectrum(sum(grams))[-len(truth) :], truth, atol=1e-12)
    tops = [spectrum(g)[-1] for g in grams]
    assert max(tops) <= truth[-1] <= sum(tops)


@pytest.mark.parametrize("positions", [1, 3])
def test_quality_is_that_of_the_product_formed(positions: int, rng: np.random.Generator) -> None:
    x, d = rng.standard_normal((40, positions, 5)) + 0.5, rng.standard_normal((40, positions, 4))
    s_x = np.einsum("nti,ntj->ij", x, x) / (40 * positions)
    s_d = np.einsum("nti,ntj->ij", d, d) / 40
    f, product = dense(x, d), np.kron(s_d, s_x)
    found = quality(gram(x, d), x, d, s_x, s_d)
    assert found.cosine == pytest.approx((f * product).sum() / np.linalg.norm(f) / np.linalg.norm(product))
    assert found.floor <= np.linalg.eigvalsh(f)[-1] * (1 + 1e-12)


def test_kfac_is_exact_where_rows_and_gradients_are_independent() -> None:
    x = np.repeat(np.eye(3), 2, 0)[:, None] * 2.0
    d = np.tile(np.eye(2), (3, 1))[:, None]
    s_x, s_d = (np.einsum("nti,ntj->ij", r, r) / 6 for r in (x, d))
    found = quality(gram(x, d), x, d, s_x, s_d)
    assert found.cosine == pytest.approx(1.0)


def test_no_gradient_has_no_quality() -> None:
    x, d = np.ones((4, 1, 3)), np.zeros((4, 1, 2))
    found = quality(gram(x, d), x, d, np.ones((3, 3)), np.zeros((2, 2)))
    assert np.isnan(found.cosine)
    assert found.floor == 0.0
