from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from layerscope.fits.fitting import fit_all
from layerscope.fits.likelihood_ratio import compare_with_power_law, nested_p_value
from layerscope.fits.truncated_power_law import log_exponential_integral
from layerscope.records.layers import Fit
from layerscope.settings import EVIDENCE_FITS, Settings
from tests.samples import pareto, spectrum_of


def fits_of(values: np.ndarray, **changes: object) -> dict[str, Fit]:
    return fit_all(spectrum_of(values), Settings(fits=EVIDENCE_FITS, **changes))  # type: ignore[arg-type]


def test_exponential_tail_is_recognised(rng: np.random.Generator) -> None:
    fit = fits_of(1 + 3 * rng.standard_exponential(500), min_tail=450)["exponential"]
    assert fit.params["ratio"] < 0
    assert fit.params["p"] < 0.1
    assert fit.params["rate"] == pytest.approx(1 / 3, rel=0.15)


def test_power_law_tail_is_not_taken_for_an_exponential(rng: np.random.Generator) -> None:
    fit = fits_of(pareto(rng, 2.3, 500))["exponential"]
    assert fit.params["ratio"] > 0
    assert fit.params["p"] < 0.05


def test_lognormal_tail_is_recognised_and_its_parameters_recovered(rng: np.random.Generator) -> None:
    values = np.sort(rng.lognormal(0.0, 1.0, 3000))
    values = values[values > np.exp(-1)]
    fit = fits_of(values, min_tail=len(values))["lognormal"]
    assert fit.params["ratio"] < 0
    assert fit.params["p"] < 0.01
    assert fit.params["mu"] == pytest.approx(0.0, abs=0.15)
    assert fit.params["s"] == pytest.approx(1.0, rel=0.1)


def test_lognormal_likelihood_is_scipys(rng: np.random.Generator) -> None:
    values = np.sort(rng.lognormal(0.3, 0.8, 800))
    fits = fits_of(values, min_tail=800)
    mu, s, low = fits["lognormal"].params["mu"], fits["lognormal"].params["s"], values[0]
    law = stats.lognorm(s, scale=np.exp(mu))
    expected = (law.logpdf(values) - law.logsf(low)).sum()
    assert fits["lognormal"].params["loglik"] == pytest.approx(expected, rel=1e-6)


def test_lognormal_does_not_beat_a_true_power_law(rng: np.random.Generator) -> None:
    rejected = 0
    for _ in range(20):
        fit = fits_of(pareto(rng, 2.5, 300), bootstrap=1)["lognormal"].params
        rejected += fit["ratio"] < 0 and fit["p"] < 0.1
    assert rejected <= 4


@pytest.mark.parametrize(
    ("alpha", "theta"),
    [(1.5, 0.01), (2.0, 1.0), (0.5, 0.1), (3.5, 1e-8), (8.0, 20.0), (-2.0, 0.5), (2.0, 1e3), (3.0, 1e4)],
)
def test_exponential_integral_agrees_with_quadrature(alpha: float, theta: float) -> None:
    end = min(60.0, 60 / theta) if theta > 1 else 60.0
    exact = integrate.quad(lambda u: np.exp(-(alpha - 1) * u - theta * (np.exp(u) - 1)), 0, end, limit=500)[0]
    assert log_exponential_integral(alpha, theta) == pytest.approx(np.log(exact) - theta, abs=1e-7)


def test_truncated_power_law_recovers_its_own_sample(rng: np.random.Generator) -> None:
    alpha, cut = 1.8, 0.05
    draws = pareto(rng, alpha, 40000)
    draws = draws[rng.random(len(draws)) < np.exp(-cut * (draws - 1))][:4000]
    fit = fits_of(draws, min_tail=len(draws), bootstrap=1)["truncated_power_law"]
    assert fit.params["alpha"] == pytest.approx(alpha, abs=0.1)
    assert fit.params["Lambda"] == pytest.approx(cut, rel=0.15)
    assert fit.params["p"] < 1e-6


def test_truncation_is_not_found_in_a_pure_power_law() -> None:
    rng = np.random.default_rng(5)
    found = sum(
        fits_of(pareto(rng, 2.5, 300), bootstrap=1)["truncated_power_law"].params["p"] < 0.05 for _ in range(30)
    )
    assert found <= 6


def test_vuong_is_even_handed(rng: np.random.Generator) -> None:
    values = np.sort(pareto(rng, 2.5, 100))
    same = np.log(1.5 / values[0]) - 2.5 * np.log(values / values[0])
    assert compare_with_power_law(values, 2.5, same) == (pytest.approx(0.0, abs=1e-9), 1.0)
    assert nested_p_value(0.0) == 1.0
    assert nested_p_value(1e-9) == pytest.approx(0.5, abs=1e-3)


def test_bootstrap_is_seeded_and_accepts_a_power_law(rng: np.random.Generator) -> None:
    values = pareto(rng, 3.0, 200)
    first, again, other = (fits_of(values, seed=s)["bootstrap"].params for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert first["p"] > 0.1
    assert first["alpha_low"] < 3.0 < first["alpha_high"] + 0.5


def test_goodness_of_fit_rejects_an_exponential(rng: np.random.Generator) -> None:
    rejected = 0
    for _ in range(5):
        values = 1 + rng.standard_exponential(500) * 3
        rejected += fits_of(values, min_tail=450)["bootstrap"].params["p"] < 0.1
    assert rejected >= 4


def test_goodness_of_fit_p_is_not_small_under_the_null() -> None:
    rng = np.random.default_rng(11)
    p = [fits_of(pareto(rng, 2.5, 100), bootstrap=40)["bootstrap"].params["p"] for _ in range(40)]
    assert stats.kstest(p, "uniform", alternative="greater").pvalue > 0.001


def test_a_rival_of_a_failed_fit_fails_for_the_same_reason() -> None:
    fits = fits_of(np.arange(1.0, 10))
    assert not fits["lognormal"].ok
    assert fits["lognormal"].reason == fits["power_law"].reason


def test_e_tpl_recovers_a_truncated_power_law_from_its_peak(rng: np.random.Generator) -> None:
    """Draws of x^−α e^−Λx above 1 by rejection from the power law; the peak of their histogram is where they begin."""
    alpha, cutoff = 2.2, 0.02
    draws = pareto(rng, alpha, 60_000)
    values = draws[rng.random(len(draws)) < np.exp(-cutoff * (draws - 1))][:8000]
    fit = fit_all(spectrum_of(values), Settings(), ("e_tpl",))["e_tpl"]
    assert fit.ok, fit.reason
    assert fit.params["alpha"] == pytest.approx(alpha, abs=0.08)
    assert fit.params["Lambda"] == pytest.approx(cutoff, rel=0.25)
    assert fit.params["xmin"] == pytest.approx(1.0, rel=0.12)


def test_xmin_is_searched_at_the_peak_where_that_is_asked_for(rng: np.random.Generator) -> None:
    values = np.concatenate([np.exp(0.3 * rng.standard_normal(400)), pareto(rng, 2.5, 400)])
    logs = np.log(np.sort(values))
    counts, edges = np.histogram(logs, bins=100)
    peak = np.exp(edges[counts.argmax()])
    free, held = (
        fit_all(spectrum_of(values), Settings(fix_fingers=how), ("power_law",))["power_law"].params["xmin"]
        for how in ("", "xmin_peak")
    )
    assert 0.95 * peak <= held <= 1.5 * peak
    limited = Settings(fix_fingers="xmin_peak", xmin_max=1.1 * float(peak))
    assert fit_all(spectrum_of(values), limited, ("power_law",))["power_law"].params["xmin"] <= 1.1 * peak
    assert free > 0
    nowhere = Settings(fix_fingers="xmin_peak", xmin_max=0.5 * float(peak))
    assert "range of xmin" in fit_all(spectrum_of(values), nowhere, ("power_law",))["power_law"].reason


def test_the_goodness_of_fit_is_uniform_for_power_laws_and_rejects_other_tails() -> None:
    from scipy.stats import kstest

    rng = np.random.default_rng(5)
    settings = Settings(bootstrap=40)

    def p_of(values: np.ndarray, least: int = 10) -> float:
        chosen = settings.changed(min_tail=least)
        return float(fit_all(spectrum_of(values), chosen, ("bootstrap",))["bootstrap"].params["p"])

    null = [p_of(pareto(rng, 3.0, 150)) for _ in range(120)]
    assert kstest(np.array(null) - rng.random(120) / 41, "uniform").pvalue > 0.01
    for draw in (lambda: 1 + rng.exponential(1, 500), lambda: np.exp(np.abs(rng.standard_normal(500)))):
        assert np.median([p_of(draw(), 400) for _ in range(5)]) < 0.05


def test_spectra_of_one_size_do_not_share_random_draws(rng: np.random.Generator) -> None:
    values = pareto(rng, 3.0, 100)
    fits = [
        fit_all(spectrum_of(v), Settings(bootstrap=20), ("bootstrap",))["bootstrap"].params
        for v in (values, 7 * values)
    ]
    assert fits[0] == pytest.approx(fits[1])  # the same layer, rescaled
