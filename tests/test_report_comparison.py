"""Models beside each other: what is matched, what is measured, and what is said."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import UsageError
from layerscope.numerics.similarity import distances
from layerscope.report_comparison import histogram, sign_test
from tests.command_line import cli
from tests.samples import pareto, with_singular_values


def model(
    rng: np.random.Generator, alpha: float, layers: int = 12, scale: float = 1.0, weak: int = 0
) -> dict[str, Any]:
    found = {}
    for i in range(layers):
        a = 9.0 if i < weak else alpha
        evals = np.sqrt(pareto(rng, a, 120))
        found[f"layers.{i}.weight"] = (scale * with_singular_values(rng, evals, 120)).astype(np.float32)
    return found


def test_layers_are_matched_by_name_and_distances_are_from_the_first(rng: np.random.Generator) -> None:
    a, b = model(rng, 3.0), model(rng, 2.2)
    b = {f"module.{name}": array for name, array in reversed(b.items())}
    b["module.extra.weight"] = a["layers.0.weight"]
    found = layerscope.compare(a, b)
    assert [layer.name for layer in found.layers] == list(a)
    assert found.unmatched == ((), ("module.extra.weight",))
    layer = found.layers[3]
    assert layer.metrics[0]["alpha"] == found.reports[0].layers["layers.3.weight"].metrics["alpha"]
    expected = distances(a["layers.3.weight"][None], b["module.layers.3.weight"][None])
    assert dict(layer.distances[1]) == pytest.approx(expected)
    assert layer.distances[0] == {}


def test_the_reading_names_the_model_with_too_little_data(rng: np.random.Generator) -> None:
    poor, rich = model(rng, 5.0, weak=4), model(rng, 2.5)
    found = layerscope.compare(poor, rich)
    text = " ".join(found.reading)
    assert "α of B is lower than that of A in 12 of 12 layers" in text
    assert "p < 0.001" in text
    poor_line = next(line for line in found.reading if line.startswith("A has"))
    assert "too little or poor data" in poor_line
    assert "α above 6 in" in poor_line
    assert not any("poor data" in line for line in found.reading if line.startswith("B has"))
    finding = next(f for f in found.reports[0].findings if f.code == "LS110")
    assert finding.layer is None
    assert not [f for f in found.reports[1].findings if f.code == "LS110"]


def test_like_models_give_no_clear_difference(rng: np.random.Generator) -> None:
    found = layerscope.compare(model(rng, 3.0), model(rng, 3.0))
    assert "no clear difference" in found.reading[0]
    same = model(rng, 3.0)
    reading = layerscope.compare(same, dict(same)).reading
    assert reading[:2] == (
        "12 of 12 layers of B have exactly the weights of A.",
        "Every α of B equals that of A.",
    )


def test_warnings_about_depth_and_about_shape_against_scale(rng: np.random.Generator) -> None:
    deep = layerscope.compare(model(rng, 3.0, 12), model(rng, 3.0, 20))
    assert any("differ in depth (12, 20" in line for line in deep.warnings)
    disagree = layerscope.compare(model(rng, 4.0), model(rng, 2.2, scale=10.0))
    assert any("Shape and scale disagree on B" in line for line in disagree.warnings)
    other = {name.replace("layers.", "block"): w for name, w in model(rng, 3.0).items()}
    assert any("No layer was matched by name" in line for line in layerscope.compare(model(rng, 3.0), other).warnings)


def test_reports_and_saved_reports_can_be_compared_without_their_weights(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    a, b = (layerscope.analyze(model(rng, alpha)) for alpha in (3.0, 2.2))
    a.save(tmp_path / "a.layerscope")
    found = layerscope.compare(tmp_path / "a.layerscope", b)
    assert found.layers[0].distances == ({}, {})
    assert found.reading
    with pytest.raises(UsageError, match="at least two models"):
        layerscope.compare(a)


def test_sign_test_and_histogram() -> None:
    from scipy.stats import binomtest

    for lower, higher in ((41, 8), (5, 5), (0, 3), (12, 0)):
        assert sign_test(lower, higher) == pytest.approx(binomtest(lower, lower + higher).pvalue)
    counts = histogram([[2.1, 2.2, 5.9], [4.0]])
    assert [sum(c) for c in counts["counts"]] == [3, 1]
    assert (counts["edges"][0], counts["edges"][-1]) == (2.0, 6.0)
    assert histogram([[], []])["edges"] == []


def test_every_format_of_the_command(rng: np.random.Generator, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "<img>.safetensors")]
    for path, alpha in zip(paths, (4.0, 2.5, 3.0), strict=True):
        save_file(model(rng, alpha, 6), path)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return cli("compare", *arguments, COLUMNS="120")

    done = run(*paths)
    assert done.returncode == 0, done.stderr
    assert "What this shows" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    plain = json.loads(run(*paths, "-f", "json").stdout)
    assert plain["record"] == "comparison"
    assert len(plain["models"]) == 3
    assert len(plain["layers"]) == 6
    rows = list(csv.DictReader(io.StringIO(run(*paths, "-f", "csv").stdout)))
    assert float(rows[0]["relative_3"]) > 0
    md = run(*paths[::2], "-f", "md", "-o", tmp_path / "c.md")
    assert md.returncode == 0, md.stderr
    assert "<img>" not in (tmp_path / "c.md").read_text()
    assert run(paths[0]).returncode == 2
    assert run(paths[0], "nowhere").returncode == 3
    assert run(*paths[:2], "--layers", "nothing").returncode == 2


def test_a_comparison_shows_itself(rng: np.random.Generator) -> None:
    found = layerscope.compare(model(rng, 3.0, 6), model(rng, 2.5, 6), distances=False)
    assert "What this shows" in repr(found)
    frame = found.frame()
    assert list(frame["name"]) == [layer.name for layer in found.layers]
    assert frame["alpha_2"].notna().all()
    assert frame["relative_2"].isna().all()
    assert json.dumps(found.to_dict())


def test_a_word_before_all_names_of_one_model_is_taken_off(rng: np.random.Generator) -> None:
    plain = model(rng, 3.0)
    renamed = {f"net/{name.replace('.', '/')}": array for name, array in plain.items()}
    found = layerscope.compare(plain, renamed)
    assert len(found.layers) == len(plain)
    assert all(layer.distances[1]["frobenius"] == 0.0 for layer in found.layers)
    assert {row.skipped for row in layerscope.analyze(renamed, base=plain).rows} == {"unchanged from the base model"}
    other = {f"x{i}": array for i, array in enumerate(plain.values())}
    assert layerscope.compare(plain, other).layers == ()
