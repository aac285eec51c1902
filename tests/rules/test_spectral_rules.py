"""Each verdict fires where it should, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope import Settings
from layerscope.records.report import Report
from tests.requirements import require
from tests.samples import pareto, with_singular_values


def layer_with(rng: np.random.Generator, evals: np.ndarray) -> np.ndarray:
    return with_singular_values(rng, np.sqrt(evals), len(evals)).astype(np.float32)


def codes(report: Report, layer: str) -> list[str]:
    return [f.code for f in report.findings if f.layer == layer]


def test_very_heavy_and_weak_tails_are_described() -> None:
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
    assert codes(report, "eye.weight") == ["LS103"]
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
    assert set(messages) == {"low.weight", "tiny.weight", "zero.weight"}
    assert "60 of 100 eigenvalues are zero" in messages["low.weight"]
    assert [f.layer for f in report.findings if f.code == "LS113"] == ["one.weight"]
    assert "emptied" in messages["tiny.weight"]
    assert messages["zero.weight"].startswith("Every weight is zero.")


def test_resnet56_with_six_emptied_layers_reports_them_collapsed_and_leaves_them_out(shared: Path) -> None:
    """The published file has no emptied layer; six are emptied here, as weight decay would."""
    torch = require("torch")
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
def test_random_layers_have_neither_heavy_tails_nor_lost_weights(shape: tuple[int, int], draw: str) -> None:
    rng = np.random.default_rng(5)
    make = rng.standard_normal if draw == "normal" else lambda s: rng.uniform(-1, 1, s)
    report = layerscope.analyze({f"w{i}.weight": make(shape) for i in range(12)})
    assert not [f for f in report.findings if f.code in ("LS101", "LS105")]


def test_a_bulk_with_many_spikes_is_no_heavy_tail(rng: np.random.Generator) -> None:
    w = rng.standard_normal((400, 200))
    for size in np.linspace(50, 80, 25):
        u, v = rng.standard_normal(400), rng.standard_normal(200)
        w += size * np.outer(u, v) / np.linalg.norm(u) / np.linalg.norm(v)
    report = layerscope.analyze({"w.weight": w})
    assert report.rows[0].metrics["phase"] == "bulk+spikes"


def test_flat_spectra_are_no_tails(rng: np.random.Generator) -> None:
    flat = np.linalg.qr(rng.standard_normal((300, 300)))[0] + 1e-3 * rng.standard_normal((300, 300))
    assert codes(layerscope.analyze({"w.weight": flat}), "w.weight") == []


def test_spikes_on_a_random_bulk_are_no_heavy_tail(rng: np.random.Generator) -> None:
    u, v = np.linalg.qr(rng.standard_normal((400, 20)))[0], np.linalg.qr(rng.standard_normal((300, 20)))[0]
    w = rng.standard_normal((400, 300)) + u * (37.0 * np.arange(1, 21) ** 1.5) @ v.T
    report = layerscope.analyze({"w.weight": w})
    assert report.layers["w.weight"].metrics["phase"] == "bulk+spikes"
    assert float(report.layers["w.weight"].metrics["alpha"]) < 2
    assert "LS101" not in codes(report, "w.weight")


def test_a_trap_is_named_with_its_place_and_size(rng: np.random.Generator) -> None:
    w = rng.standard_normal((100, 80))
    w[7, 9] = 50
    report = layerscope.analyze({"w.weight": w, "v.weight": rng.standard_normal((100, 80))}, randomize=True)
    assert "LS104" in codes(report, "w.weight")
    (finding,) = [f for f in report.findings if f.code == "LS104"]
    assert "1 eigenvalue lies beyond the edge of a random matrix" in finding.message
    assert "[7, 9] = 50" in finding.message
    assert "times the edge: a correlation trap" in finding.message
    assert "LS104" not in codes(layerscope.analyze({"w.weight": w}), "w.weight")


def test_fingers_are_seen_with_evidence_and_clipped_on_request() -> None:
    rng = np.random.default_rng(8)
    evals = np.sort(np.concatenate([pareto(rng, 2.3, 200).clip(max=20), [400.0, 410, 420, 425]]))
    evals[-14:-4] = np.linspace(395, 399, 10)
    w = {"w.weight": layer_with(rng, evals)}
    settings = Settings(bootstrap=5, finger_thresh=0.2).with_evidence()
    row = layerscope.analyze(w, settings=settings).rows[0]
    clipped = layerscope.analyze(w, fix_fingers="clip_xmax", finger_thresh=0.2).rows[0]
    assert row.metrics["num_fingers"] == clipped.metrics["num_fingers"]
    assert row.metrics["alpha_clipped"] == clipped.metrics["alpha"]
    assert row.metrics["alpha"] == clipped.metrics["raw_alpha"]
    fires = int(row.metrics["num_fingers"]) > 0
    assert ("LS108" in codes(layerscope.analyze(w, settings=settings), "w.weight")) == fires


def test_fingers_fire_where_clipping_moves_alpha(rng: np.random.Generator) -> None:
    steep = np.concatenate([np.linspace(1, 2, 80) ** 0.5, 40 + rng.random(9) * 1e-3])
    report = layerscope.analyze({"w.weight": layer_with(rng, steep)}, evidence=True, bootstrap=5, min_tail=8)
    row = report.rows[0]
    assert int(row.metrics["num_fingers"]) > 0
    (finding,) = [f for f in report.findings if f.code == "LS108"]
    assert float(finding.value) > 1
    assert f"without the {row.metrics['num_fingers']} largest" in finding.message


def test_scale_outliers_are_judged_among_siblings(rng: np.random.Generator) -> None:
    layers = {f"h.{i}.fc.weight": rng.standard_normal((80, 60)) for i in range(8)}
    layers |= {f"h.{i}.proj.weight": 40 * rng.standard_normal((80, 60)) for i in range(8)}
    assert not [f for f in layerscope.analyze(layers).findings if f.code == "LS109"]
    layers["h.3.fc.weight"] = 6 * layers["h.3.fc.weight"]
    found = [f for f in layerscope.analyze(layers).findings if f.code == "LS109"]
    assert [f.layer for f in found] == ["h.3.fc.weight"]
    assert "times larger than the median of 8 corresponding layers" in found[0].message
    few = {name: w for name, w in layers.items() if int(name.split(".")[1]) < 4}
    assert not [f for f in layerscope.analyze(few).findings if f.code == "LS109"]


def test_rules_about_the_model_have_no_layer(rng: np.random.Generator) -> None:
    layers = {f"l{i}.weight": rng.standard_normal((100, 80)) for i in range(4)}
    report = layerscope.analyze(layers, randomize=True)
    (finding,) = [f for f in report.findings if f.layer is None]
    assert (finding.code, finding.where) == ("LS111", "the whole model")
    assert "4 of 4 layers" in finding.message
    text = repr(report)
    assert "LS111 untrained model: the whole model\n    4 of 4 layers look like their own shuffles" in text
    assert "None" not in text
    from layerscope.views.markdown import to_markdown

    assert "the whole model" in to_markdown(report)
    assert layerscope.Report.from_json(report.to_json()).findings == report.findings


@pytest.mark.parametrize(("others", "spoken"), [(4, True), (5, False)])
def test_a_minority_of_layers_does_not_speak_for_the_model(rng: np.random.Generator, others: int, spoken: bool) -> None:
    layers = {f"l{i}.weight": rng.standard_normal((100, 80)) for i in range(4)}
    layers |= {f"other{i}.weight": rng.standard_normal((100, 80)) for i in range(others)}
    report = layerscope.analyze(layers, randomize=True, layers="l*.weight")
    assert any(f.code == "LS111" for f in report.findings) == spoken


def sound(rng: np.random.Generator, count: int = 6) -> dict[str, np.ndarray]:
    """Layers that look trained: a random bulk with spikes, and units of different norms."""
    layers = {}
    for i in range(count):
        u, v = rng.standard_normal((90, 3)), rng.standard_normal((70, 3))
        layers[f"fc{i}.weight"] = rng.standard_normal((90, 70)) * rng.uniform(0.5, 1.5, (90, 1)) + u @ v.T
    return layers


def test_sound_layers_have_no_finding(rng: np.random.Generator) -> None:
    assert not [f for f in layerscope.analyze(sound(rng), randomize=True).findings if f.severity != "info"]


@pytest.mark.parametrize("randomize", [False, True])
@pytest.mark.parametrize("draw", ["normal", "uniform", "orthogonal", "identity"])
def test_a_layer_that_was_never_trained_is_found_among_others(
    rng: np.random.Generator, draw: str, randomize: bool
) -> None:
    make = {
        "normal": lambda: rng.standard_normal((90, 70)),
        "uniform": lambda: rng.uniform(-1, 1, (90, 70)),
        "orthogonal": lambda: np.linalg.qr(rng.standard_normal((90, 70)))[0].astype(np.float16),
        "identity": lambda: np.eye(90, 70),
    }[draw]
    layers = {**sound(rng), "fc3.weight": make()}
    report = layerscope.analyze(layers, randomize=randomize)
    assert [f.layer for f in report.findings if f.code == "LS103"] == ["fc3.weight"]
    assert "LS111" not in {f.code for f in report.findings}


@pytest.mark.parametrize("shape", [(512, 512), (64, 3, 7, 7), (128, 64, 5)])
@pytest.mark.parametrize("randomize", [False, True])
def test_untrained_models_are_recognized_and_nothing_else_is_said(
    rng: np.random.Generator, shape: tuple[int, ...], randomize: bool
) -> None:
    layers = {f"l{i}.weight": rng.standard_normal(shape) for i in range(6)}
    found = {f.code for f in layerscope.analyze(layers, randomize=randomize).findings}
    assert found <= {"LS103", "LS111"}
    assert "LS111" in found


def test_one_weight_at_thirty_deviations_is_found_and_named(rng: np.random.Generator) -> None:
    layers = sound(rng)
    layers["fc2.weight"][11, 5] = 30 * layers["fc2.weight"].std()
    (finding,) = [f for f in layerscope.analyze(layers).findings if f.severity != "info"]
    assert (finding.code, finding.layer) == ("LS115", "fc2.weight")
    assert "Weight [11, 5] = " in finding.message
    for layer in layers.values():  # a model with such weights in many layers has them on purpose
        layer[11, 5] = 30 * layer.std()
    assert "LS115" not in {f.code for f in layerscope.analyze(layers).findings}


def test_outliers_with_a_structure_are_no_traps(rng: np.random.Generator) -> None:
    diagonal, line = 0.02 * rng.standard_normal((80, 80)) + np.eye(80), rng.standard_normal((80, 80))
    line[7, ::9] = 30
    report = layerscope.analyze({"a.weight": diagonal, "b.weight": line}, randomize=True)
    messages = {f.layer: f.message for f in report.findings if f.code == "LS112"}
    assert "on the diagonal" in messages["a.weight"]
    assert "in output 7 " in messages["b.weight"]
    assert "LS104" not in {f.code for f in report.findings}


def test_dead_units_are_counted_and_many_are_an_error(rng: np.random.Generator) -> None:
    layers = sound(rng)
    layers["fc1.weight"][:9] = 0
    layers["fc4.weight"][20:60] = 0
    layers["fc5.weight"][:, :30] = 0
    report = layerscope.analyze(layers)
    messages = {(f.code, f.layer): f.message for f in report.findings if f.code in ("LS105", "LS114")}
    assert set(messages) == {("LS114", "fc1.weight"), ("LS105", "fc4.weight")}
    assert messages["LS114", "fc1.weight"].startswith("9 of 90 output units are dead")
    assert messages["LS105", "fc4.weight"].startswith("40 of 90 output units are dead")


def test_a_model_that_decayed_to_nothing_is_an_error(rng: np.random.Generator) -> None:
    report = layerscope.analyze({name: 1e-30 * layer for name, layer in sound(rng).items()})
    found = [f for f in report.findings if f.severity == "error"]
    assert {f.code for f in found} == {"LS105"}
    assert len(found) == 6
    assert "decayed to nothing" in found[0].message


def test_a_dense_layer_at_five_times_the_scale_of_the_others_is_found(rng: np.random.Generator) -> None:
    layers = {f"{name}.weight": layer for name, layer in zip(("a", "b", "c", "d"), sound(rng, 4).values(), strict=True)}
    assert "LS109" not in {f.code for f in layerscope.analyze(layers).findings}
    layers["c.weight"] = 5 * layers["c.weight"]
    (finding,) = [f for f in layerscope.analyze(layers).findings if f.code == "LS109"]
    assert finding.layer == "c.weight"
    assert "3 other dense layers" in finding.message
