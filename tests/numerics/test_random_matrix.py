from __future__ import annotations

import numpy as np
import pytest

from layerscope.numerics import random_matrix as rm
from layerscope.numerics.spectra import esd


@pytest.mark.parametrize(("n", "m"), [(400, 400), (600, 300), (2000, 100)])
def test_wishart_spectrum_has_marchenko_pastur_moments(rng: np.random.Generator, n: int, m: int) -> None:
    sigma = 0.7
    evals = np.concatenate([esd(sigma * rng.standard_normal((1, n, m))).evals for _ in range(4)]) / n
    gamma = m / n
    assert evals.mean() == pytest.approx(sigma**2, rel=0.02)
    assert (evals**2).mean() == pytest.approx(sigma**4 * (1 + gamma), rel=0.02)
    assert (evals**3).mean() == pytest.approx(sigma**6 * (1 + 3 * gamma + gamma**2), rel=0.03)


@pytest.mark.parametrize(("n", "m"), [(300, 300), (600, 300), (3000, 200)])
def test_marchenko_pastur_cdf_describes_a_gaussian_matrix(rng: np.random.Generator, n: int, m: int) -> None:
    evals = esd(rng.standard_normal((1, n, m))).evals
    law = rm.mp_cdf(evals, n, m, 1.0)
    assert np.abs(law - (np.arange(m) + 0.5) / m).max() < 0.02
    low, high = rm.mp_edges(n, m, 1.0)
    assert evals[-1] == pytest.approx(high, rel=0.06)
    assert rm.mp_cdf(np.array([low, high]), n, m, 1.0) == pytest.approx([0, 1], abs=1e-9)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
def test_marchenko_pastur_cdf_integrates_the_density(gamma: float) -> None:
    from scipy.integrate import quad

    n, m = 1000, int(1000 * gamma)
    a, b = (1 - gamma**0.5) ** 2, (1 + gamma**0.5) ** 2
    for x in (a + 0.1 * (b - a), a + 0.5 * (b - a), a + 0.9 * (b - a)):
        area = quad(lambda t: np.sqrt((b - t) * (t - a)) / (2 * np.pi * gamma * t), a, x)[0]
        assert rm.mp_cdf(np.array([n * x]), n, m, 1.0)[0] == pytest.approx(area, abs=2e-4)


def test_tracy_widom_table_solves_painleve() -> None:
    """F₁(s) = exp(−½∫_s^∞ (q + (t−s)q²) dt), q'' = tq + 2q³, q ~ Ai: integrated here from its definition."""
    from scipy.integrate import solve_ivp
    from scipy.special import airy

    ai, aip, *_ = airy(12.0)
    points = sorted(rm.TRACY_WIDOM.values(), reverse=True)

    def slope(t: float, y: np.ndarray) -> list[float]:
        q, dq, i0, *_ = y  # q, q', ∫q², ∫(t−s)q², ∫q (integrals from t to ∞)
        return [dq, t * q + 2 * q**3, -(q**2), -i0, -q]

    done = solve_ivp(slope, (12.0, 0.0), [ai, aip, 0, 0, 0], t_eval=points, rtol=1e-12, atol=1e-30)
    for s, i1, j in zip(done.t, done.y[3], done.y[4], strict=True):
        upper = 1 - np.exp(-0.5 * (i1 + j))
        probability = next(p for p, value in rm.TRACY_WIDOM.items() if value == s)
        assert upper == pytest.approx(probability, rel=1e-4)


def test_tracy_widom_quantile_interpolates_and_extrapolates() -> None:
    assert rm.tracy_widom_quantile(0.01) == pytest.approx(2.02345, abs=1e-5)
    assert 1.2 < rm.tracy_widom_quantile(0.03) < 1.45
    assert rm.tracy_widom_quantile(1e-9) == pytest.approx(8.69, abs=0.1)


@pytest.mark.parametrize(("n", "m"), [(100, 100), (200, 50)])
def test_gaussian_matrices_exceed_the_edge_at_the_stated_rate(rng: np.random.Generator, n: int, m: int) -> None:
    trials, probability = 400, 0.05
    edge = rm.tracy_widom_edge(n, m, 1.0, probability=probability)
    over = sum(float(np.linalg.norm(rng.standard_normal((n, m)), 2) ** 2) > edge for _ in range(trials))
    assert over / trials == pytest.approx(probability, abs=0.035)


@pytest.mark.parametrize(
    ("k", "n", "m"), [(1, 8, 8), (1, 64, 8), (1, 32, 32), (1, 100, 100), (1, 300, 60), (9, 16, 16)]
)
def test_random_layers_show_a_spike_at_no_more_than_the_stated_rate(
    rng: np.random.Generator, k: int, n: int, m: int
) -> None:
    trials, found = 500, 0
    for i in range(trials):
        w = rng.standard_normal((k, n, m)) if i % 2 else rng.random((k, n, m)) - 0.5
        found += rm.spikes_and_sigma(esd(w).evals, n, m, k, 0.01)[0] > 0
    assert found <= 0.01 * trials + 2.4 * (0.01 * trials) ** 0.5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 31, 17), (9, 8, 5)])
def test_shuffles_permute_each_matrix_and_can_be_undone(
    rng: np.random.Generator, dtype: str, shape: tuple[int, ...]
) -> None:
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    stack = rng.standard_normal(shape).astype(kind)
    shuffler = rm.Shuffler(stack)
    mixed = shuffler.shuffle([0, 1]).copy()
    assert mixed.dtype == kind
    assert mixed.shape == shape
    assert not (mixed == stack).all()
    assert (rm.Shuffler(stack).shuffle([0, 1]) == mixed).all()
    assert not (shuffler.shuffle([0, 2]) == mixed).all()
    flat, after = (a.reshape(shape[0], -1).astype(np.float64) for a in (stack, mixed))
    assert (np.sort(flat, axis=1) == np.sort(after, axis=1)).all()
    for i in range(shape[0]):
        back = shuffler.origins([0, 1], i, list(range(flat.shape[1])))
        assert sorted(back) == list(range(flat.shape[1]))
        assert (flat[i, back] == after[i]).all()


def test_every_place_is_equally_likely(rng: np.random.Generator) -> None:
    stack = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    counts, shuffler = np.zeros((12, 12)), rm.Shuffler(stack)
    for seed in range(6000):
        counts[np.arange(12), shuffler.shuffle([seed]).ravel().astype(int)] += 1
    expected = 6000 / 12
    chi2 = float((np.square(counts - expected) / expected).sum())
    assert chi2 < 121 + 5 * np.sqrt(2 * 121)
