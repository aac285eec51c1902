from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope import Limits, Report, Settings
from layerscope.errors import LayerscopeError, NoLayerMatches, Unreadable, UsageError
from layerscope.records.layers import LayerReport


@pytest.fixture
def report(weights: dict[str, np.ndarray]) -> Report:
    return layerscope.analyze(weights)


def same(a: Report, b: Report) -> None:
    assert a.meta == b.meta
    assert a.findings == b.findings
    for x, y in zip(a.rows, b.rows, strict=True):
        assert (x.name, x.metrics, x.absent, x.ref, x.skipped) == (y.name, y.metrics, y.absent, y.ref, y.skipped)
        assert x.parts["weight"].fits == y.parts["weight"].fits


def test_a_report_is_its_table(report: Report) -> None:
    assert "fc1.weight" in repr(report)
    assert "bulk" in repr(report) or "random-like" in repr(report)
    assert all(line == line.rstrip() for line in repr(report).splitlines())


def test_layers_by_name_and_index(report: Report) -> None:
    assert report.layers["fc1.weight"] is report.layers[1]
    assert len(report.layers) == 6
    assert "conv.weight" in report.layers
    with pytest.raises(KeyError, match="did you mean"):
        report.layers["fc1.wieght"]
    with pytest.raises(KeyError, match="0 to 5"):
        report.layers[99]


def test_frame_and_details(report: Report) -> None:
    frame = report.frame()
    assert list(frame["name"]) == [row.name for row in report.rows]
    assert set(report.details["name"]) == {"embed.weight", "fc1.weight", "conv.weight", "head.weight"}
    assert {"alpha", "N", "M", "Q", "rf", "num_evals", "lambda_max", "phase", "skipped"} <= set(frame.columns)


def test_summary_averages_fitted_layers_that_are_no_embeddings(report: Report) -> None:
    summary = report.summary
    counted = ["fc1.weight", "conv.weight"]
    alphas = [report.layers[name].metrics["alpha"] for name in counted]
    assert summary["metrics"]["alpha"]["mean"] == pytest.approx(np.mean(alphas))
    assert summary["metrics"]["alpha"]["n"] == summary["averaged"] == 2
    assert {item["name"] for item in summary["left_out"]} == {"embed.weight", "head.weight"}
    assert summary["skipped"] == {"bias": 1, "norm": 1}


def test_spectra_are_there_and_ascending(report: Report) -> None:
    assert set(report.spectra) == {"embed.weight", "fc1.weight", "conv.weight", "head.weight"}
    assert all((np.diff(evals) >= 0).all() for evals in report.spectra.values())


def test_save_and_load_lose_nothing(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "r.layerscope")
    loaded = layerscope.load(tmp_path / "r.layerscope")
    same(report, loaded)
    for name, evals in report.spectra.items():
        np.testing.assert_array_equal(loaded.spectra[name], evals)
    loaded.save(tmp_path / "again.layerscope")
    assert (tmp_path / "again.layerscope").read_bytes() == (tmp_path / "r.layerscope").read_bytes()


def test_json_is_valid_and_round_trips(report: Report) -> None:
    text = report.to_json()
    plain = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    assert plain["schema"] == 1
    assert set(plain) == {"schema", "meta", "layers", "findings", "summary"}
    needed = {"name", "index", "kind", "shape", "N", "M", "Q", "rf", "num_evals", "skipped", "metrics", "absent"}
    assert all(needed <= set(layer) for layer in plain["layers"])
    same(Report.from_json(text), report)
    assert Report.from_json(text).to_json() == text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "layers": 3}', '{"schema": 1}'])
def test_foreign_json_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        Report.from_json(text)


def test_rejudging_needs_no_matrix(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report.save(tmp_path / "r.layerscope")
    monkeypatch.setattr("layerscope.numerics.spectra.esd", lambda *_, **__: pytest.fail("a matrix was touched"))
    same(layerscope.analyze(tmp_path / "r.layerscope"), report)
    assert [
        f.code for f in layerscope.rejudge(report, Settings(min_evals=5)).findings if f.layer == "head.weight"
    ] == []
    lenient = Settings(limits=Limits(stable_rank=1e9))
    assert "LS113" in {f.code for f in layerscope.rejudge(report, lenient).findings}
    evidence = layerscope.rejudge(report, Settings(bootstrap=5).with_evidence())
    assert "p_value" in evidence.layers["fc1.weight"].metrics


def test_rejudging_cannot_change_what_was_measured(report: Report) -> None:
    with pytest.raises(LayerscopeError, match="needs the weights"):
        layerscope.rejudge(report, Settings(conv_factor=0.5))


def test_rejudged_equals_analysed_anew(weights: dict[str, np.ndarray], report: Report) -> None:
    settings = Settings(min_evals=8, min_tail=3)
    anew = layerscope.analyze(weights, settings=settings)
    again = layerscope.rejudge(report, settings)
    assert [r.metrics for r in anew.rows] == [r.metrics for r in again.rows]
    assert anew.findings == again.findings


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["fc*"], {"fc1.weight"}),
        ("conv2d", {"conv.weight"}),
        ([1, "embedding"], {"fc1.weight", "embed.weight"}),
        (["5"], {"head.weight"}),
        (["fc1", "head"], {"fc1.weight", "head.weight"}),
        (["*.weight"], {"embed.weight", "fc1.weight", "conv.weight", "head.weight"}),
    ],
)
def test_layers_are_selected_by_glob_id_and_kind(
    weights: dict[str, np.ndarray], layers: list[str], expected: set[str]
) -> None:
    report = layerscope.analyze(weights, layers=layers)
    assert set(report.spectra) == expected
    assert len(report.rows) == 6
    assert {row.skipped for row in report.rows if row.ref.kind == "dense" and row.name not in expected} <= {
        "not selected"
    }


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("cnv2d", "did you mean 'conv2d'"),
        ("99", "match no layer"),
        ("fc1.bias", "cannot be analyzed"),
        (["fc*", "zzz"], "zzz"),
    ],
)
def test_a_selector_that_matches_nothing_is_an_error(weights: dict[str, np.ndarray], layers: str, message: str) -> None:
    with pytest.raises(NoLayerMatches, match=message):
        layerscope.analyze(weights, layers=layers)


def test_describe_reads_no_numbers(weights: dict[str, np.ndarray]) -> None:
    report = layerscope.describe(weights)
    assert all(row.spectrum is None and not row.metrics for row in report.rows)
    assert "analyzed" in repr(report)
    assert report.to_json()


def test_plan_says_cost_and_memory(weights: dict[str, np.ndarray]) -> None:
    jobs, idle = layerscope.plan(weights)
    assert [job.refs[0].name for job in jobs] == ["embed.weight", "fc1.weight", "conv.weight", "head.weight"]
    assert all(job.cost > 0 and job.memory > 0 for job in jobs)
    assert len(idle) == 2
    report = layerscope.analyze(weights, settings=Settings(max_cost=0.0003))
    assert "more than max_cost" in report.layers["fc1.weight"].skipped


def test_progress_adds_up(weights: dict[str, np.ndarray]) -> None:
    seen: list[tuple[LayerReport | None, float, float]] = []
    layerscope.analyze(weights, progress=lambda *x: seen.append(x))
    assert seen[0][0] is None
    assert sum(cost for _, cost, _ in seen) == pytest.approx(seen[0][2])
    assert len(seen) == 5


@pytest.mark.parametrize(
    "change",
    [{"min_evals": 1}, {"min_tail": 0}, {"confidence": 1.5}, {"seed": -1}, {"conv": "x"}, {"jobs": True},
     {"null_cut": math.nan}, {"max_cost": -1.0}, {"fix_fingers": "yes"}],
)  # fmt: skip
def test_impossible_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Settings(**change)  # type: ignore[arg-type]


def test_settings_round_trip_and_know_their_names() -> None:
    settings = Settings(min_evals=9, limits=Limits(over_trained=1.5)).with_evidence()
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(UsageError, match="did you mean 'min_evals'"):
        Settings.from_dict({"min_eval": 3})


def test_conv_flat_is_one_matrix_per_layer(weights: dict[str, np.ndarray]) -> None:
    flat = layerscope.analyze(weights, settings=Settings(conv="flat")).layers["conv.weight"].spectrum
    exact = np.linalg.svd(weights["conv.weight"].reshape(32, -1), compute_uv=False)[::-1] ** 2
    np.testing.assert_allclose(flat.evals, exact, rtol=1e-5)  # type: ignore[union-attr]


def test_the_same_seed_gives_the_same_report(weights: dict[str, np.ndarray]) -> None:
    settings = Settings(bootstrap=5, seed=3).with_evidence()
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    a, b = (layerscope.analyze(weights, settings=settings) for _ in range(2))
    assert [r.metrics for r in a.rows] == [r.metrics for r in b.rows]
    assert (np.random.get_state()[1] == state).all()  # type: ignore[union-attr]
    assert a.meta["seed"] == 3


def test_notebook_html_escapes_names(rng: np.random.Generator) -> None:
    name = "<img src=x onerror=alert(1)>.weight"
    html = layerscope.analyze({name: rng.standard_normal((60, 60))})._repr_html_()
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;.weight" in html


def test_saved_reports_refuse_what_needs_the_weights(tmp_path: Path) -> None:
    report = layerscope.analyze({"w.weight": np.random.default_rng(0).standard_normal((60, 50))}, randomize=True)
    for options in (
        {"conv": "flat"},
        {"seed": 9},
        {"max_evals": 100},
        {"base": {"w.weight": np.eye(3)}},
        {"window": 5},
    ):
        with pytest.raises(UsageError, match="need"):
            layerscope.analyze(report, **options)
    flat = layerscope.analyze({"w.weight": np.random.default_rng(0).standard_normal((60, 50))}, conv="flat")
    with pytest.raises(UsageError, match="was measured with conv='flat'"):
        layerscope.analyze(flat, conv="slices")


def test_heads_that_nobody_knows_are_an_error() -> None:
    with pytest.raises(UsageError, match="number of attention heads"):
        layerscope.analyze({"q_proj.weight": np.eye(60)}, per_head=True)


def test_rows_per_matrix_do_not_take_the_names_of_others() -> None:
    rng = np.random.default_rng(0)
    layers = {"c.weight": rng.standard_normal((32, 16, 2, 2)), "c.weight[0]": rng.standard_normal((60, 50))}
    report = layerscope.analyze(layers, pool=False)
    assert len(report.rows) == 5
    assert len({row.name for row in report.rows}) == 5
    assert sum(row.ref.params for row in report.rows) == 32 * 16 * 4 + 60 * 50


def test_inverse_spectra_and_differences_carry_no_verdict_about_training() -> None:
    rng = np.random.default_rng(0)
    layers = {f"l{i}.weight": rng.standard_normal((100, 100)) for i in range(4)}
    assert layerscope.analyze(layers, inverse=True).findings == ()
    low = {name: w + np.outer(rng.standard_normal(100), rng.standard_normal(100)) for name, w in layers.items()}
    assert not [
        f for f in layerscope.analyze(low, base=layers).findings if f.code in ("LS101", "LS102", "LS105", "LS109")
    ]
