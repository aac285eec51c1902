"""Baselines: ranges of untrained layers and of healthy ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope.baseline_tables import METRICS, Span, from_dict, load_baselines, shipped_text
from layerscope.errors import Unreadable
from layerscope.numerics.untrained_spectra import untrained_eigenvalues
from tests.command_line import cli
from tests.requirements import require

DRAWS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "int8": lambda rng, shape: rng.integers(-127, 128, shape).astype(np.float64),
}


@pytest.mark.parametrize("law", DRAWS)
@pytest.mark.parametrize("shape", [(90, 70), (400, 150), (40, 30, 3, 3)])
def test_untrained_layers_lie_in_their_range(law: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(law))
    layers = {f"l{i}.weight": DRAWS[law](rng, shape) for i in range(60)}
    inside, ratios = {"alpha": 0, "rand_distance": 0}, []
    for row in layerscope.analyze(layers, randomize=True, shuffles=2).rows:
        m = row.metrics
        inside["alpha"] += m["alpha_untrained_low"] <= m["alpha"] <= m["alpha_untrained_high"]
        inside["rand_distance"] += m["rand_distance"] <= m["rand_distance_untrained"]
        ratios.append(m["stable_rank"] / m["stable_rank_untrained"])
    assert np.median(ratios) == pytest.approx(1, abs=0.08)
    assert 60 * 0.75 <= inside["alpha"] <= 60
    assert inside["rand_distance"] >= 60 * 0.8


def test_the_stable_rank_of_untrained_layers_is_that_of_the_marchenko_pastur_law() -> None:
    n, m = 4000, 1000
    span = load_baselines().of_untrained("stable_rank", n, m, 1)
    assert span is not None
    assert span.median == pytest.approx(n * m / (n**0.5 + m**0.5) ** 2, rel=0.02)


def test_drawn_spectra_are_those_of_gaussian_matrices() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([untrained_eigenvalues(rng, 60, 20, 3) for _ in range(200)])
    dense = []
    for _ in range(200):
        matrices = rng.standard_normal((3, 60, 20))
        dense.append(np.sort(np.linalg.eigvalsh(np.swapaxes(matrices, 1, 2) @ matrices).ravel()))
    np.testing.assert_allclose(drawn.mean(0), np.mean(dense, 0), rtol=0.05)


def test_between_points_of_the_grid_values_are_interpolated() -> None:
    table = load_baselines()
    low, middle, high = (table.of_untrained("alpha", 2 * m, m, 1) for m in (128, 181, 256))
    assert low
    assert middle
    assert high
    assert min(low.median, high.median) <= middle.median <= max(low.median, high.median)
    assert middle.median == pytest.approx((low.median + high.median) / 2, rel=0.01)


def test_a_table_of_ones_own_models_replaces_the_shipped_ranges(tmp_path: Path, rng: np.random.Generator) -> None:
    require("safetensors")
    from safetensors.numpy import save_file

    weights = {f"layers.{i}.mlp.up_proj.weight": rng.standard_normal((120, 60)).astype(np.float32) for i in range(12)}
    save_file(weights, tmp_path / "good.safetensors")
    table, model = tmp_path / "ours.json", str(tmp_path / "good.safetensors")
    assert cli("baselines", model, "-o", str(table), "-q").returncode == 0
    report = layerscope.analyze(model, against=str(table))
    alphas = [row.metrics["alpha"] for row in report.rows]
    m = report.rows[0].metrics
    assert m["layer_role"] == "MLP up"
    assert m["alpha_usual_low"] == pytest.approx(np.quantile(alphas, 0.05), rel=1e-3)
    assert m["alpha_usual_high"] == pytest.approx(np.quantile(alphas, 0.95), rel=1e-3)
    shipped = layerscope.analyze(model).rows[0].metrics
    assert shipped["alpha_usual_high"] != m["alpha_usual_high"]


def test_an_optimizer_chooses_its_ranges_where_the_table_has_them() -> None:
    rows = [
        {"role": "dense", "optimizer": optimizer, "layers": layers, "models": 1, "alpha": [1.0, value, 9.0]}
        for optimizer, layers, value in (("", 40, 3.0), ("muon", 12, 2.0), ("sgd", 3, 5.0))
    ]
    table = from_dict({"format": "layerscope baselines", "sources": [], "untrained": [], "healthy": rows})
    assert table.of_healthy("alpha", "dense", "muon") == Span(1.0, 2.0, 9.0)
    assert table.of_healthy("alpha", "dense", "sgd") == Span(1.0, 3.0, 9.0)  # three layers are too few
    assert table.of_healthy("alpha", "head", "") is None
    assert table.of_untrained("alpha", 100, 50, 1) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "layerscope baselines"}', '{"format": "x"}', "[" * 10_000, "not json"]
)
def test_what_is_no_table_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(Unreadable, match="not a table of baselines"):
        load_baselines(str(path))


def test_a_wrong_table_or_optimizer_is_one_line_before_anything_is_measured(tmp_path: Path) -> None:
    model = tmp_path / "x.npz"
    np.savez(model, **{"fc.weight": np.random.default_rng(0).standard_normal((80, 60))})
    for words, said in (
        (("--against", tmp_path / "absent.json"), "no such file"),
        (("--against", "/dev/zero"), "not a regular file"),
        (("--optimizer", "adamx"), "adamw"),
    ):
        result = cli("analyze", model, "-q", *words)
        assert result.returncode != 0
        assert said in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_a_saved_report_whose_table_is_gone_is_judged_without_it(tmp_path: Path) -> None:
    table = tmp_path / "ours.json"
    table.write_text(shipped_text(), "utf-8")
    weights = {"fc.weight": np.random.default_rng(0).standard_normal((80, 60))}
    layerscope.analyze(weights, against=str(table)).save(tmp_path / "r.layerscope")
    table.unlink()
    load_baselines.cache_clear()
    row = layerscope.analyze(tmp_path / "r.layerscope").rows[0]
    assert "alpha" in row.metrics
    assert "no such file" in row.absent["alpha_untrained_low"]


def test_the_shipped_table_names_its_sources_and_has_a_row_per_role() -> None:
    table = json.loads(shipped_text())
    assert len(table["sources"]) >= 20
    assert {row["role"] for row in table["healthy"]} >= {"attention query", "MLP down", "convolution 3×3", "recurrent"}
    assert {row["optimizer"] for row in table["healthy"]} == {"", "sgd", "adam", "adamw", "muon"}
    assert all(any(name in row for name in METRICS) for row in table["healthy"])
