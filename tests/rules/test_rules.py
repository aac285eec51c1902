"""Each verdict fires where it should, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope import Settings
from layerscope.types import Report
from tests.samples import pareto, with_singular_values


def layer_with(rng: np.random.Generator, evals: np.ndarray) -> np.ndarray:
    return with_singular_values(rng, np.sqrt(evals), len(evals)).astype(np.float32)


def codes(report: Report, layer: str) -> list[str]:
    return [f.code for f in report.findings if f.layer == layer]


def test_very_heavy_tail_is_over_trained_and_light_tail_under_trained() -> None:
    rng = np.random.default_rng(1)
    layers = {f"a{a}.weight": layer_with(rng, pareto(rng, a, 300)) for a in (1.5, 3.0, 9.0)}
    report = layerscope.analyze(layers)
    assert "LS101" in codes(report, "a1.5.weight")
    assert codes(report, "a3.0.weight") == []
    assert codes(report, "a9.0.weight") == ["LS102"]
    finding = next(f for f in report.findings if f.code == "LS101")
    assert (finding.value, finding.limit) == (report.layers["a1.5.weight"].metrics["alpha"], 2.0)
    assert "eigenvalues" in finding.message


def test_failed_fit_fires_no_rule() -> None:
    report = layerscope.analyze({"eye.weight": np.eye(80), "tiny.weight": np.diag([1.0, 2.0, 3.0])})
    assert codes(report, "eye.weight") == []
    assert report.layers["eye.weight"].absent["alpha"] == "all eigenvalues are equal"
    assert codes(report, "tiny.weight") == ["LS107"]


def test_thin_tails_and_poor_fits_carry_no_verdict() -> None:
    rng = np.random.default_rng(2)
    w = {"w.weight": layer_with(rng, pareto(rng, 12.0, 60))}
    strict = Settings(limits=layerscope.Limits(verdict_tail=1000))
    assert codes(layerscope.analyze(w, settings=strict), "w.weight") == []
    rejecting = Settings(limits=layerscope.Limits(ks_rejected=0.0))
    assert codes(layerscope.analyze(w, settings=rejecting), "w.weight") == []


def test_lognormal_tail_silences_alpha_verdicts_when_evidence_is_asked_for() -> None:
    rng = np.random.default_rng(3)
    w = {"w.weight": layer_with(rng, np.exp(rng.standard_normal(900) * 0.35))}
    report = layerscope.analyze(w, settings=Settings(min_tail=700, bootstrap=10).with_evidence())
    assert "LS106" in codes(report, "w.weight")
    assert not {"LS101", "LS102"} & set(codes(report, "w.weight"))


def test_collapse_by_rank_by_one_direction_and_by_emptiness() -> None:
    rng = np.random.default_rng(4)
    normal = rng.standard_normal((100, 100))
    report = layerscope.analyze(
        {
            "a.weight": normal, "b.weight": rng.standard_normal((100, 100)), "c.weight": rng.standard_normal((90, 80)),
            "low.weight": rng.standard_normal((100, 40)) @ rng.standard_normal((40, 100)),
            "one.weight": 0.05 * normal + 300 * np.outer(np.ones(100), np.ones(100)) / 100,
            "tiny.weight": 1e-6 * normal,
            "zero.weight": np.zeros((100, 100)),
        }
    )  # fmt: skip
    messages = {f.layer: f.message for f in report.findings if f.code == "LS105"}
    assert set(messages) == {"low.weight", "one.weight", "tiny.weight", "zero.weight"}
    assert "60 of 100 eigenvalues are zero" in messages["low.weight"]
    assert "one direction" in messages["one.weight"]
    assert "emptied" in messages["tiny.weight"]
    assert messages["zero.weight"] == "every weight is zero"


def test_resnet56_with_six_emptied_layers_reports_them_collapsed_and_leaves_them_out(shared: Path) -> None:
    """The published file has no emptied layer; six are emptied here, as weight decay would."""
    torch = pytest.importorskip("torch")
    path = shared / "models" / "cifar10_resnet_akamaster" / "resnet56-4bfd9763.th"
    weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    whole = layerscope.analyze(weights)
    assert not [f for f in whole.findings if f.code == "LS105"]
    emptied = [name for name in weights if "layer1" in name and name.endswith("conv1.weight")][1:7]
    report = layerscope.analyze({k: v * 1e-6 if k in emptied else v for k, v in weights.items()})
    assert {f.layer for f in report.findings if f.code == "LS105"} == set(emptied)
    assert not [f for f in report.findings if f.layer in emptied and f.code in ("LS101", "LS102")]
    left_out = {item["name"]: item["why"] for item in report.summary["left_out"]}
    assert all(left_out[name] == "collapsed" for name in emptied)
    others = [x.metrics["alpha"] for x in report.rows if "alpha" in x.metrics and x.name not in left_out]
    assert report.summary["metrics"]["alpha"]["mean"] == pytest.approx(np.mean(others))


@pytest.mark.parametrize("shape", [(64, 64), (256, 128), (400, 100), (512, 64)])
@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_random_layers_are_neither_over_trained_nor_collapsed(shape: tuple[int, int], draw: str) -> None:
    rng = np.random.default_rng(5)
    make = rng.standard_normal if draw == "normal" else lambda s: rng.uniform(-1, 1, s)
    report = layerscope.analyze({f"w{i}.weight": make(shape) for i in range(12)})
    assert not [f for f in report.findings if f.code in ("LS101", "LS105")]


def test_bulk_with_many_spikes_is_not_over_trained(rng: np.random.Generator) -> None:
    w = rng.standard_normal((400, 200))
    for size in np.linspace(50, 80, 25):
        u, v = rng.standard_normal(400), rng.standard_normal(200)
        w += size * np.outer(u, v) / np.linalg.norm(u) / np.linalg.norm(v)
    report = layerscope.analyze({"w.weight": w})
    assert report.rows[0].metrics["phase"] == "bulk+spikes"


def test_flat_spectra_are_no_tails(rng: np.random.Generator) -> None:
    flat = np.linalg.qr(rng.standard_normal((300, 300)))[0] + 1e-3 * rng.standard_normal((300, 300))
    assert codes(layerscope.analyze({"w.weight": flat}), "w.weight") == []
