from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerscope.errors import Absent
from layerscope.numerics import lapack_eigenvalues, memory_cost, spectra
from layerscope.numerics.spectra import esd
from tests.samples import with_singular_values


@pytest.mark.parametrize(("k", "n", "m"), [(1, 40, 40), (1, 200, 30), (9, 16, 16), (3, 70, 65), (1, 5, 1)])
def test_eigenvalues_are_squared_singular_values(rng: np.random.Generator, k: int, n: int, m: int) -> None:
    stack = rng.standard_normal((k, n, m)).astype(np.float32)
    exact = np.sort(np.linalg.svd(stack.astype(np.float64), compute_uv=False).ravel() ** 2)
    np.testing.assert_allclose(esd(stack).evals, exact, rtol=1e-9, atol=1e-12 * exact[-1])


def test_constructed_spectrum_is_recovered_exactly(rng: np.random.Generator) -> None:
    singular = np.geomspace(1e-12, 1.0, 60)
    found = esd(with_singular_values(rng, singular, 90)[None])
    np.testing.assert_allclose(np.sqrt(found.evals), singular, rtol=1e-3, atol=1e-15)


@pytest.mark.parametrize("block", [1 << 8, 1 << 12, 1 << 21])
def test_block_size_does_not_change_the_spectrum(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    stack = rng.standard_normal((2, 500, 20)).astype(np.float32)
    whole = esd(stack).evals
    monkeypatch.setattr(spectra, "BLOCK_ENTRIES", block)
    monkeypatch.setattr(spectra, "MAX_GRAM_ENTRIES", 400)
    np.testing.assert_allclose(esd(stack).evals, whole, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_scaling_weights_scales_eigenvalues_by_the_square(rng: np.random.Generator, scale: float) -> None:
    w = rng.standard_normal((1, 80, 60))
    plain, big = esd(w), esd(w * scale)
    np.testing.assert_allclose(big.evals, plain.evals * scale**2, rtol=1e-10)
    assert big.floor == pytest.approx(plain.floor * scale**2, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-150, 1e-120, 1e120, 1e150])
def test_squares_that_overflow_or_underflow_are_scaled_first(rng: np.random.Generator, scale: float) -> None:
    w = rng.standard_normal((1, 60, 50))
    np.testing.assert_allclose(esd(w * scale).evals / scale / scale, esd(w).evals, rtol=1e-9)


def test_a_spectrum_that_float64_cannot_hold_is_absent(rng: np.random.Generator) -> None:
    for scale in (1e200, 1e-200):
        with pytest.raises(Absent, match="exceed the range of float64"):
            esd(rng.standard_normal((1, 60, 50)) * scale)


@pytest.mark.parametrize(("value", "text"), [(np.nan, "1 NaN and 0 infinite"), (np.inf, "0 NaN and 1 infinite")])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_nan_and_infinity_are_counted_not_computed(value: float, text: str, dtype: type) -> None:
    w = np.ones((2, 20, 10), np.float32)
    w[1, 3, 4] = value
    with pytest.raises(Absent, match=text):
        esd(w.astype(dtype))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_narrow_floats_read_equal_to_float32(rng: np.random.Generator, dtype: type) -> None:
    narrow = rng.standard_normal((1, 64, 48)).astype(dtype)
    np.testing.assert_allclose(esd(narrow).evals, esd(narrow.astype(np.float32)).evals, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("n", [64, 600])
def test_rank_survives_rounding_to_the_dtype(rng: np.random.Generator, dtype: type, n: int) -> None:
    low_rank = rng.standard_normal((n, 5)) @ rng.standard_normal((5, n))
    full = rng.standard_normal((n, n))
    assert len(esd(low_rank.astype(dtype)[None]).live) == 5
    assert len(esd(full.astype(dtype)[None]).live) >= 0.98 * n


def test_zero_rank_one_and_constant_matrices(rng: np.random.Generator) -> None:
    assert not esd(np.zeros((1, 9, 7))).evals.any()
    assert len(esd(np.outer(rng.standard_normal(30), rng.standard_normal(20))[None]).live) == 1
    constant = esd(np.full((1, 30, 20), 3.0, np.float32))
    assert len(constant.live) == 1
    assert constant.evals[-1] == pytest.approx(9 * 600)


def test_symmetric_matrices_keep_their_own_eigenvalues(rng: np.random.Generator) -> None:
    a = np.cov(rng.standard_normal((12, 40)))
    np.testing.assert_allclose(esd(a[None], symmetric=True).evals, np.linalg.eigvalsh(a), rtol=1e-10)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 2**31))
def test_transposing_and_permuting_change_nothing(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((n, m))
    tall = w if n >= m else w.T
    permuted = tall[rng.permutation(tall.shape[0])][:, rng.permutation(tall.shape[1])]
    plain = esd(tall[None]).evals
    np.testing.assert_allclose(esd(permuted[None]).evals, plain, rtol=1e-8, atol=1e-10 * plain[-1])


@pytest.mark.parametrize("m", [64, 200, 384])
def test_eigvalsh_outside_the_lock_equals_numpy(rng: np.random.Generator, m: int) -> None:
    w = rng.standard_normal((m, m))
    gram = (w @ w.T)[None]
    np.testing.assert_allclose(lapack_eigenvalues.eigvalsh(gram), np.linalg.eigvalsh(gram), rtol=1e-9, atol=1e-10 * m)


def test_two_stage_reduction_equals_one_stage(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    w = rng.standard_normal((300, 300))
    gram = (w @ w.T)[None]
    one = lapack_eigenvalues.eigvalsh(gram)
    monkeypatch.setattr(lapack_eigenvalues, "MIN_ROWS_FOR_TWO_STAGE", 100)
    np.testing.assert_allclose(lapack_eigenvalues.eigvalsh(gram), one, rtol=1e-9, atol=1e-9)


def test_other_builds_of_numpy_fall_back_to_numpy(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    gram = np.cov(rng.standard_normal((100, 300)))[None]
    ours = lapack_eigenvalues.eigvalsh(gram)
    monkeypatch.setattr(lapack_eigenvalues, "find_numpy_lapack", lambda _: None)
    np.testing.assert_allclose(lapack_eigenvalues.eigvalsh(gram), ours, rtol=1e-10)


def test_eigvalsh_finds_numpys_own_lapack() -> None:
    if not any("numpy" in p["filepath"] for p in __import__("threadpoolctl").threadpool_info()):
        pytest.skip("this NumPy was built with another BLAS")
    assert lapack_eigenvalues.find_numpy_lapack() is not None


def test_cost_and_memory_grow_with_the_layer() -> None:
    assert memory_cost.spectrum_flops(1, 4096, 4096) > 7 * memory_cost.spectrum_flops(1, 2048, 2048)
    assert memory_cost.spectrum_bytes(1, 4096, 4096, 4) < 4 * 4096**2 * 8


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("where", ["column", "row", "entry"])
def test_a_few_huge_entries_do_not_hide_the_rest(rng: np.random.Generator, dtype: type, where: str) -> None:
    w = 0.02 * rng.standard_normal((300, 256))
    if where == "column":
        w[:, 5] *= 3000
    elif where == "row":
        w[5] *= 3000
    else:
        w[0, 0] = 1e4
    assert len(esd(w.astype(dtype)[None]).live) >= 253


def test_rank_of_float16_weights_below_its_normal_range(rng: np.random.Generator) -> None:
    low = rng.standard_normal((256, 200)) @ rng.standard_normal((200, 256))
    assert len(esd(low.astype(np.float16)[None]).live) == 200
    assert len(esd((low * 1e-6).astype(np.float16)[None]).live) <= 205
