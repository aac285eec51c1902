from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from layerscope.errors import Absent
from layerscope.fits.fitting import fit_all
from layerscope.fits.power_law import (
    EFFECTIVE_TAIL_SHARE,
    MAX_RANGE_KS,
    NEAR_BEST,
    alpha_interval,
    best_tail,
    chi2_quantile,
    fittable_eigenvalues,
    hill,
    modified_ks,
    power_law,
    scan_tails,
)
from layerscope.numerics.spectra import esd
from layerscope.settings import Settings
from tests.requirements import require
from tests.samples import pareto, spectrum_of


def brute_force(values: np.ndarray, min_tail: int) -> tuple[float, int, float]:
    """Every candidate, one after the other, as Clauset's plfit does it."""
    best = (math.nan, -1, math.inf)
    for start in range(len(values) - min_tail + 1):
        tail = values[start:]
        n = len(tail)
        alpha = 1 + n / np.log(tail / tail[0]).sum()
        ks = np.abs(1 - (tail / tail[0]) ** (1 - alpha) - np.arange(n) / n).max()
        if ks < best[2]:
            best = (alpha, start, ks)
    return best


@pytest.mark.parametrize("min_tail", [2, 10])
@pytest.mark.parametrize("n", [50, 200, 700])
@pytest.mark.parametrize("kind", ["pareto", "gaussian", "lognormal"])
def test_pruned_search_finds_what_brute_force_finds(rng: np.random.Generator, n: int, min_tail: int, kind: str) -> None:
    draws = {"pareto": pareto(rng, 2.5, n), "gaussian": rng.standard_normal(n) ** 2, "lognormal": rng.lognormal(size=n)}
    values = np.sort(draws[kind])
    tail = best_tail(np.log(values), min_tail)
    alpha, start, ks = brute_force(values, min_tail)
    assert tail.start == start
    assert tail.alpha == pytest.approx(alpha, rel=1e-10)
    assert tail.ks == pytest.approx(ks, rel=1e-8)


@pytest.mark.parametrize("alpha", [1.6, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("n", [50, 200, 1000])
def test_alpha_recovers_synthetic_pareto(alpha: float, n: int) -> None:
    """Within its own 90 % interval in most of 60 samples; xmin is searched, which the interval does not count."""
    rng = np.random.default_rng(n)
    config = Settings(confidence=0.9)
    inside, found = 0, []
    for _ in range(60):
        params = power_law(spectrum_of(pareto(rng, alpha, n)), config).params
        inside += params["alpha_low"] <= alpha <= params["alpha_high"]
        found.append(params["alpha"])
    assert inside >= 40
    assert np.median(found) == pytest.approx(alpha, rel=0.08)


def test_powerlaw_package_agrees(rng: np.random.Generator) -> None:
    powerlaw = require("powerlaw")
    for alpha in (1.8, 2.7, 4.0):
        values = np.sort(pareto(rng, alpha, 150))
        theirs = powerlaw.Fit(values, parameter_ranges={"alpha": [1, 20]}, verbose=False)
        ours = power_law(spectrum_of(values), Settings(min_tail=2)).params
        assert ours["alpha"] == pytest.approx(theirs.power_law.alpha, rel=1e-6)
        assert ours["xmin"] == pytest.approx(theirs.power_law.xmin, rel=1e-9)
        assert ours["ks"] == pytest.approx(theirs.power_law.D, rel=1e-6)


def test_interval_is_the_exact_one_for_a_known_xmin(rng: np.random.Generator) -> None:
    n, alpha = 40, 3.0
    inside = 0
    for _ in range(2000):
        values = np.sort(pareto(rng, alpha, n))
        estimate = 1 + n / np.log(values / values[0]).sum()
        low, high = alpha_interval(estimate, n, 0.9)
        inside += low <= alpha <= high
    assert inside / 2000 == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("p", [0.025, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("freedom", [20, 100, 2000])
def test_chi2_quantile_agrees_with_scipy(p: float, freedom: int) -> None:
    assert chi2_quantile(p, freedom) == pytest.approx(stats.chi2.ppf(p, freedom), rel=2e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(-8, 8), st.integers(60, 200))
def test_scaling_the_weights_leaves_the_shape_alone(seed: int, power: float, n: int) -> None:
    values = np.sort(pareto(np.random.default_rng(seed), 2.5, n))
    plain, scaled = (power_law(spectrum_of(values * c), Settings()).params for c in (1.0, 2.0 ** round(power)))
    for name in ("alpha", "ks", "n_tail", "sigma", "hill"):
        assert scaled[name] == pytest.approx(plain[name], rel=1e-7)
    assert scaled["xmin"] == pytest.approx(plain["xmin"] * 2.0 ** round(power), rel=1e-12)


def test_scan_shows_every_candidate_and_the_winner(rng: np.random.Generator) -> None:
    logs = np.log(np.sort(pareto(rng, 3.0, 120)))
    xmins, alphas, distances = scan_tails(logs, 10)
    best = best_tail(logs, 10)
    i = int(distances.argmin())
    assert len(xmins) == 111
    assert (alphas[i], xmins[i]) == (pytest.approx(best.alpha), pytest.approx(logs[best.start]))


def test_hill_takes_the_upper_half(rng: np.random.Generator) -> None:
    values = np.sort(pareto(rng, 3.0, 400))
    k = 200
    assert hill(np.log(values)) == pytest.approx(1 + k / np.log(values[-k:] / values[-k - 1]).sum())


def test_no_tail_is_shorter_than_min_tail(rng: np.random.Generator) -> None:
    for _ in range(20):
        assert power_law(spectrum_of(rng.standard_normal(60) ** 2), Settings(min_tail=25)).params["n_tail"] >= 25


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.arange(1.0, 20), "19 eigenvalues, fewer than min_evals = 50"),
        (np.full(80, 3.0), "all eigenvalues are equal"),
        (np.concatenate([np.zeros(60), np.arange(1.0, 21)]), "only 20 of 80 eigenvalues are above zero"),
    ],
)
def test_a_failed_fit_says_why_and_is_not_minus_one(values: np.ndarray, reason: str) -> None:
    fit = fit_all(spectrum_of(values), Settings())["power_law"]
    assert not fit.ok
    assert reason in fit.reason
    assert not fit.params


def test_absolute_cut_is_only_for_compatibility(rng: np.random.Generator) -> None:
    values = pareto(rng, 2.0, 100) * 1e-8
    assert len(fittable_eigenvalues(spectrum_of(values), Settings())) == 100
    with pytest.raises(Absent):
        fittable_eigenvalues(spectrum_of(values), Settings.weightwatcher())


@pytest.mark.parametrize(("seed", "fingers"), [(8, 3), (24, 2), (38, 4), (41, 1)])
def test_fingers_are_clipped_counted_and_the_raw_alpha_kept(seed: int, fingers: int) -> None:
    values = np.sort(np.random.default_rng(seed).standard_normal(80) ** 2 + 1)
    settings = Settings(fix_fingers="clip_xmax", min_tail=2)
    clipped = power_law(spectrum_of(values), settings).params
    assert clipped["fingers"] == fingers
    assert clipped["raw_alpha"] == power_law(spectrum_of(values), Settings(min_tail=2)).params["alpha"]
    assert clipped["xmax"] == values[-1 - fingers]
    for k in range(1, fingers + 1):  # the fewest that lower α by more than the threshold
        alpha = brute_force(values[:-k], 2)[0]
        assert (alpha + 1.0 < clipped["raw_alpha"]) == (k == fingers)
    assert clipped["alpha"] == pytest.approx(alpha)


def test_modified_ks_rejects_at_its_level(rng: np.random.Generator) -> None:
    """Stephens' 1 % point, exponential with fitted mean, xmin known; the step from below makes it conservative."""
    n, over = 40, 0
    for _ in range(1500):
        t = np.sort(rng.standard_exponential(n))
        ks = np.abs(1 - np.exp(-t / t.mean()) - np.arange(n) / n).max()
        over += modified_ks(float(ks), n) > 1.308
    assert over / 1500 < 0.015


def test_equal_eigenvalues_start_one_tail(rng: np.random.Generator) -> None:
    """Copies of a layer (identical experts) must not start a tail in the middle of a run of equal values."""
    params = power_law(spectrum_of(np.repeat(pareto(rng, 2.5, 60), 8)), Settings()).params
    assert params["n_tail"] == params["spikes"]


def test_the_range_contains_the_exponent_of_matrices_whose_columns_have_power_law_scales() -> None:
    rng = np.random.default_rng(7)
    inside = [in_range(rng.standard_normal((160, 80)) * np.sqrt(pareto(rng, 2.0, 80)), 2.0) for _ in range(60)]
    assert np.mean(inside) >= 0.85


def in_range(weight: np.ndarray, alpha: float) -> bool:
    params = power_law(esd(weight[None]), Settings()).params
    return bool(params["alpha_low"] <= alpha <= params["alpha_high"])


def test_the_range_is_the_union_of_the_intervals_of_all_tails_that_fit_nearly_as_well(
    rng: np.random.Generator,
) -> None:
    values = np.sort(pareto(rng, 2.5, 120))
    params = power_law(spectrum_of(values), Settings()).params
    lows, highs = [], []
    for start in range(len(values) - 10 + 1):
        tail = values[start:]
        alpha = 1 + len(tail) / np.log(tail / tail[0]).sum()
        ks = np.abs(1 - (tail / tail[0]) ** (1 - alpha) - np.arange(len(tail)) / len(tail)).max()
        if ks <= NEAR_BEST * params["ks"] and len(tail) >= 20 and modified_ks(ks, len(tail)) <= MAX_RANGE_KS:
            low, high = alpha_interval(alpha, EFFECTIVE_TAIL_SHARE * len(tail), 0.9)
            lows.append(low)
            highs.append(high)
    assert params["alpha_low"] == pytest.approx(min(lows))
    assert params["alpha_high"] == pytest.approx(max(highs))
