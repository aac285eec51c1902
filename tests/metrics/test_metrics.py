"""Each metric against a closed form or a direct computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from layerscope import registry
from layerscope.fits.fitting import fit_all
from layerscope.metrics.computing import compute
from layerscope.numerics.spectra import esd
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import LayerRef, Measurement, Value
from layerscope.settings import EVIDENCE_FITS, Settings
from tests.samples import pareto, spectrum_of, with_singular_values


def measured(spectrum: Spectrum, settings: Settings | None = None) -> tuple[dict[str, Value], dict[str, str]]:
    settings = settings or Settings()
    ref = LayerRef(0, "w", (spectrum.n, spectrum.m), "oi", "float32", "dense")
    return compute({"weight": Measurement(ref, spectrum, fit_all(spectrum, settings))}, settings)


def test_scale_metrics_are_norms(rng: np.random.Generator) -> None:
    w = rng.standard_normal((90, 60))
    m, _ = measured(esd(w[None]))
    assert m["sv_max"] == pytest.approx(np.linalg.norm(w, 2))
    assert m["lambda_max"] == m["spectral_norm"] == pytest.approx(np.linalg.norm(w, 2) ** 2)
    assert m["norm"] == pytest.approx(np.linalg.norm(w) ** 2)
    assert m["log_norm"] == pytest.approx(2 * math.log10(np.linalg.norm(w)))
    assert m["sv_min"] == pytest.approx(np.linalg.svd(w, compute_uv=False)[-1])
    assert m["stable_rank"] == pytest.approx(np.linalg.norm(w) ** 2 / np.linalg.norm(w, 2) ** 2)
    assert m["alpha_weighted"] == pytest.approx(m["alpha"] * math.log10(m["lambda_max"]))


def test_rank_metrics_count_directions(rng: np.random.Generator) -> None:
    singular = np.concatenate([np.ones(20), np.full(10, 1e-4), np.zeros(5)])
    m, _ = measured(esd(with_singular_values(rng, singular, 50)[None].astype(np.float32)))
    assert m["matrix_rank"] == 30
    assert m["rank_loss"] == 5
    assert m["weak_rank_loss"] == 15
    assert m["num_evals"] == 35


def test_entropy_is_one_when_flat_and_zero_at_rank_one(rng: np.random.Generator) -> None:
    assert measured(esd(3 * np.eye(40)[None]))[0]["entropy"] == pytest.approx(1.0)
    one = np.outer(rng.standard_normal(30), rng.standard_normal(20))
    assert measured(esd(one[None]))[0]["entropy"] == 0.0
    evals = np.array([1.0, 3.0])
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert measured(spectrum_of(evals))[0]["entropy"] == pytest.approx(expected)


def test_alpha_norm_does_not_overflow(rng: np.random.Generator) -> None:
    values = 1e60 * pareto(rng, 3.0, 100)
    m, _ = measured(spectrum_of(values))
    direct = m["alpha"] * 60 + math.log10(((values / 1e60) ** m["alpha"]).sum())
    assert m["log_alpha_norm"] == pytest.approx(direct)


def test_scaling_weights_moves_scale_metrics_exactly_and_shape_not_at_all(rng: np.random.Generator) -> None:
    w = rng.standard_normal((120, 80))
    plain, _ = measured(esd(w[None]))
    scaled, _ = measured(esd(8 * w[None]))
    for name in ("alpha", "D", "num_pl_spikes", "stable_rank", "entropy", "matrix_rank", "phase", "alpha_hill"):
        assert (
            scaled[name] == pytest.approx(plain[name])
            if not isinstance(plain[name], str)
            else scaled[name] == plain[name]
        )
    assert scaled["lambda_max"] == pytest.approx(64 * plain["lambda_max"])
    assert scaled["xmin"] == pytest.approx(64 * plain["xmin"])
    assert scaled["log_spectral_norm"] == pytest.approx(plain["log_spectral_norm"] + 2 * math.log10(8))


def test_zero_layer_has_reasons_instead_of_numbers() -> None:
    m, absent = measured(esd(np.zeros((1, 60, 60), np.float32)))
    assert m["lambda_max"] == 0
    for name in ("alpha", "log_norm", "stable_rank", "entropy"):
        assert name not in m
        assert absent[name]


def test_every_metric_is_a_number_or_has_a_reason(rng: np.random.Generator) -> None:
    for stack in (np.ones((1, 1, 1)), np.eye(60)[None], rng.standard_normal((9, 3, 2)), np.zeros((1, 70, 70))):
        m, absent = measured(esd(stack), Settings(fits=EVIDENCE_FITS, bootstrap=3))
        plugins = registry.plugins("metrics")
        assert set(m) | set(absent) == {
            x for x in plugins if not set(plugins[x].needs) & {"input", "gradient", "fisher", "learning"}
        }
        assert not set(m) & set(absent)
        assert all(isinstance(v, str) or math.isfinite(v) for v in m.values())


def test_dear_evidence_is_absent_until_asked_for(rng: np.random.Generator) -> None:
    spectrum = spectrum_of(pareto(rng, 2.5, 200))
    _, absent = measured(spectrum)
    m, _ = measured(spectrum, Settings(bootstrap=20).with_evidence())
    for name in ("p_value", "lr_lognormal", "p_exponential", "Lambda", "best_fit"):
        assert absent[name].startswith("not requested")
        assert name in m


def heavy(rng: np.random.Generator, mu: float) -> np.ndarray:
    return np.sign(rng.standard_normal((300, 300))) * (1 - rng.random((300, 300))) ** (-1 / mu)


def spiked(rng: np.random.Generator, size: float, count: int = 1) -> np.ndarray:
    w = rng.standard_normal((300, 300))
    for _ in range(count):
        u, v = rng.standard_normal(300), rng.standard_normal(300)
        w += size * 2 * 300**0.5 * np.outer(u, v) / np.linalg.norm(u) / np.linalg.norm(v)
    return w


def test_each_phase_is_named_on_its_textbook_example() -> None:
    rng = np.random.default_rng(3)
    decay = rng.standard_normal((300, 300)) * np.geomspace(1, 0.2, 300)
    examples = {
        "random-like": rng.standard_normal((300, 300)),
        "bleeding-out": spiked(rng, 0.8, 3),
        "bulk+spikes": spiked(rng, 3.0, 3),
        "heavy-tailed": heavy(rng, 1.5),
        "rank-collapse": rng.standard_normal((300, 30)) @ rng.standard_normal((30, 300)),
    }
    assert {name: measured(esd(w[None]))[0]["phase"] for name, w in examples.items()} == {n: n for n in examples}
    assert measured(esd(decay[None]))[0]["phase"] in ("bulk-decay", "heavy-tailed")
    assert "phase" in measured(esd(rng.standard_normal((9, 8, 4))))[1]
