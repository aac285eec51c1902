"""What got worse between two models: verdicts of a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import layerscope
from tests.command_line import cli


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    scales = np.arange(1, 121) ** -0.25
    return {f"layers.{i}.fc.weight": rng.standard_normal((240, 120)) * scales for i in range(3)}


def regressions(after: dict[str, np.ndarray]) -> set[tuple[str, str | None]]:
    findings = layerscope.compare(weights(), after).regressions[1]
    return {(finding.code, finding.layer) for finding in findings}


def test_an_equal_model_has_no_regressions() -> None:
    assert not regressions(weights())
    rng = np.random.default_rng(1)
    assert not regressions({name: w + 1e-3 * rng.standard_normal(w.shape) for name, w in weights().items()})


def test_a_collapsed_layer_and_a_jump_of_scale_are_found() -> None:
    after, rng = weights(), np.random.default_rng(2)
    after["layers.0.fc.weight"] = np.outer(rng.standard_normal(240), rng.standard_normal(120))
    after["layers.1.fc.weight"] = 4 * after["layers.1.fc.weight"]
    found = regressions(after)
    assert {("LS602", "layers.0.fc.weight"), ("LS603", "layers.1.fc.weight")} <= found
    assert not {code for code, layer in found if layer == "layers.2.fc.weight"}


def test_a_tail_that_became_heavier_leaves_its_range() -> None:
    after, rng = weights(), np.random.default_rng(3)
    name = "layers.2.fc.weight"
    after[name] = rng.standard_normal((240, 120)) * np.arange(1, 121) ** -1.5
    found = regressions(after)
    assert ("LS601", name) in found


@pytest.mark.parametrize("format_", ["table", "sarif", "junit", "json"])
def test_the_command_fails_on_regressions(tmp_path: Path, format_: str) -> None:
    files = [str(tmp_path / f"{name}.npz") for name in "ab"]
    after = weights()
    after["layers.1.fc.weight"] = 4 * after["layers.1.fc.weight"]
    np.savez(files[0], **weights())
    np.savez(files[1], **after)
    result = cli("compare", *files, "-q", "-f", format_, "--fail-on", "warn")
    assert result.returncode == 1
    assert "LS603" in result.stdout
    assert cli("compare", *files, "-q", "--fail-on", "error").returncode == 0
    assert cli("compare", files[0], files[0], "-q", "--fail-on", "warn").returncode == 0
    if format_ == "sarif":
        assert [r["ruleId"] for r in json.loads(result.stdout)["runs"][0]["results"]] == ["LS603"]


def test_layers_are_sorted_and_cut(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{name}.npz") for name in "ab"]
    after, rng = weights(), np.random.default_rng(4)
    after["layers.1.fc.weight"] = after["layers.1.fc.weight"] + rng.standard_normal((240, 120))
    np.savez(files[0], **weights())
    np.savez(files[1], **after)
    lines = cli("compare", *files, "-q", "--sort", "distance", "--top", "1").stdout.splitlines()
    listed = [line for line in lines if line.startswith("1.fc") or line.startswith("layers.1") or "layers.1.fc" in line]
    assert listed
    assert any("2 more layers" in line for line in lines)
