"""The sentences that head a page or a comment: what they claim, and what they must not."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.demo import NETWORKS
from layerscope.errors import OutputError
from layerscope.records.report import Report
from layerscope.views import headline, markdown, sarif
from layerscope.views.rerun_command import comparison_command, report_command
from tests.command_line import cli
from tests.samples import with_singular_values


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def heavy(seed: int, slope: float = 1.6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return with_singular_values(rng, np.sqrt((1 - rng.random(128)) ** (-1 / slope)), 160)


def first(report: Report) -> str:
    return headline.summary_sentences(report)[0]


def test_a_warning_leads_and_names_its_layers() -> None:
    layers = {f"{i}.weight": heavy(i) for i in range(5)}
    zero = np.zeros((160, 128))
    layers |= {"1.weight": 0.3 * random(160, 128), "3.weight": zero, "small.weight": random(10, 8)}
    report = layerscope.analyze(layers)
    assert first(report) == (
        "Problems found in 1 of 6 layers: LS105 lost weights in 1 layer (3.weight). "
        "Also look at LS103 looks untrained in 1 layer (1.weight)."
    )
    assert headline.overall_status(report) == "error"
    assert headline.summary_sentences(report)[2].startswith("Start with 3.weight: Every weight is zero.")
    assert "1 of 6 layers is too small for a verdict on training." in headline.certainty_sentences(report)


def test_calm_speaks_only_of_layers_that_could_be_judged() -> None:
    sure = layerscope.analyze(NETWORKS[0])
    assert first(sure) == (
        "No problems found by these checks: lost weights, untrained model, isolated outlier weights. "
        "Not checked: outliers after shuffling (--randomize)."
    )
    heavy_tails = layerscope.analyze({f"{i}.weight": heavy(i) for i in range(3)}, randomize=True)
    assert {finding.code for finding in heavy_tails.findings} <= {"LS101", "LS104"}
    assert first(heavy_tails).startswith("No problems found by these checks")
    assert "Not checked" not in first(heavy_tails)
    assert headline.overall_status(sure) == ""
    small = layerscope.analyze({"a.weight": random(20, 10), "b.weight": random(9, 8)})
    assert first(small) == (
        "Cannot tell: each of the 2 layers has fewer than 50 eigenvalues. No weights are lost (LS105). Data would tell "
        "more: layerscope conditioning --help."
    )
    assert headline.overall_status(small) == "thin"


@pytest.mark.parametrize("randomize", [False, True])
def test_what_looks_random_is_not_praised(randomize: bool) -> None:
    for count in (1, 3, 4):
        layers = {f"{i}.weight": random(120, 100, seed=i) for i in range(count)}
        report = layerscope.analyze(layers, randomize=randomize)
        assert first(report).startswith("This does not look like a trained model: ")
        assert "Problems" not in first(report)
        assert headline.overall_status(report) == ("warn" if count == 4 else "thin")
        assert headline.summary_sentences(report)[1] == "α says nothing about training where spectra look random."


def test_a_broken_layer_comes_before_everything() -> None:
    report = layerscope.analyze({"a.weight": np.full((60, 60), np.nan), "b.weight": heavy(1)})
    assert first(report).startswith("1 layer could not be measured and may be broken (a.weight: 3600 NaN")
    assert headline.overall_status(report) == "failed"


@pytest.mark.parametrize("options", [{"inverse": True}, {"base": {"a.weight": heavy(2)}}])
def test_where_no_verdict_was_asked_none_is_given(options: dict[str, Any]) -> None:
    report = layerscope.analyze({"a.weight": heavy(1)}, **options)
    assert headline.overall_status(report) == "thin"
    assert "collapsed." not in first(report)
    assert "erdicts" in first(report)
    assert headline.is_description(layerscope.describe({"a.weight": heavy(1)}))
    assert "Nothing was measured" in first(layerscope.describe({"a.weight": heavy(1)}))


def test_of_several_models_each_is_told() -> None:
    found = layerscope.compare(*NETWORKS, {"b.bias": np.ones(3)})
    assert headline.comparison_sentence(found) == (
        "A has no warnings; B has LS115 isolated outlier weight in 1 of 4 layers; "
        "C has no layer that could be analyzed."
    )


def test_collapsed_and_doubtful_exponents_are_told_apart() -> None:
    layers = {f"{i}.weight": heavy(i) for i in range(6)}
    fallen = {**layers, "0.weight": 1e-9 * layers["0.weight"]}
    found = layerscope.compare(layers, fallen, distances=False)
    assert "LS105" in {finding.code for finding in found.reports[1].findings}
    assert sum(found.histogram["counts"][1]) == sum(found.histogram["counts"][0]) - 1
    assert "of 5 layers" in found.reading[-1]


def test_a_doubtful_exponent_has_a_question_mark() -> None:
    layers = {**{f"{i}.weight": heavy(i) for i in range(3)}, "short.weight": random(60, 52)}
    found = layerscope.compare(layers, layers, distances=False)
    doubtful = {layer.name for layer in found.layers if any(layer.doubtful)}
    assert doubtful == {"short.weight"}
    lines = [line for line in markdown.comparison_to_markdown(found).split("\n") if line.startswith("| ")]
    for name in layers:
        shown = [line for line in lines if name in line]
        assert shown
        assert all(("?" in line) == (name in doubtful) for line in shown), shown


def test_zero_matrices_in_common_are_layers_in_common() -> None:
    zeros = {f"{i}.weight": np.zeros((60, 60)) for i in range(3)}
    found = layerscope.compare(zeros, dict(zeros))
    assert not any("No layer of the same name" in line for line in found.warnings)


def test_nothing_analysed_is_no_success_anywhere() -> None:
    report = layerscope.analyze({"a.bias": np.ones(3)})
    assert "No layer could be analyzed" in markdown.to_markdown(report)
    assert '"executionSuccessful": false' in sarif.to_sarif([report])


# --- the call that makes it again ------------------------------------------------------------------------------


def test_a_call_is_whole_or_not_there(tmp_path: Path) -> None:
    report = layerscope.analyze(NETWORKS[0])
    evil = {"layers": [" " + "x" * 800, "y" * 2000, f"; touch {tmp_path}/PWNED; #"], "target": "a.npz", "base": "b.npz"}
    for settings in (report.meta["settings"], {**report.meta["settings"], "null_cut": 1e-9}):
        line = report_command(report.replace(meta={**report.meta, "asked": evil, "settings": settings}))
        assert line.startswith("call too long to show")


@pytest.mark.parametrize(
    "name", ["it's", 'a "b" $(touch PWNED) `touch PWNED`', "; touch PWNED; #", "-dash", "new\nline", "\u202erlo", "é"]
)
def test_a_pasted_call_reads_the_same_file_and_runs_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = f"{name}.npz"
    with open(path, "wb") as file:
        np.savez(file, **{"a.weight": random(60, 60)})
    line = report_command(layerscope.analyze(path))
    assert line.isprintable()
    if line.startswith("layerscope analyze"):
        words = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True).stdout
        assert words.split("\n")[:-1] == shlex.split(line)
        done = cli(*shlex.split(line)[1:], "-q")
        assert done.returncode == 0, done.stderr
    else:
        assert eval(line).layers["a.weight"].metrics
    assert not (tmp_path / "PWNED").exists()


def test_arrangements_of_several_models_are_in_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        np.savez(f"{name}.npz", **{"x.weight": random(60, 60, seed=ord(name)), "y.weight": random(60, 60)})
    reports = [layerscope.analyze(f"{name}.npz", base="c.npz") for name in "ab"]
    line = comparison_command(layerscope.compare(*reports))
    assert line == "layerscope analyze a.npz b.npz --base c.npz --html comparison.html"
    assert "--stacked" in report_command(layerscope.analyze("a.npz", stacked=True))
    layerscope.analyze("a.npz").save("r.layerscope")
    assert report_command(layerscope.analyze("r.layerscope", layers="x*")) == "layerscope analyze a.npz -l 'x*'"


# --- outputs ---------------------------------------------------------------------------------------------------


def test_outputs_never_overwrite_models_but_earlier_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.npz", "b.npz"):
        np.savez(name, **{"x.weight": random(60, 60)})
    before = Path("b.npz").read_bytes()
    for words in (("-o", "a.npz"), ("-o", "b.npz"), ("--save", "b.npz"), ("--html", "b.npz"), ("--html", "x.png")):
        assert cli("analyze", "a.npz", "-q", *words).returncode == 2
    assert cli("analyze", "a.npz", "-q", "-o", "x.html", "--html", "x.html").returncode == 2
    assert Path("b.npz").read_bytes() == before
    for _ in range(2):
        done = cli(
            "analyze", "a.npz", "-q", "-f", "md", "-o", "out.md", "--html", "out.html", "--save", "out.layerscope"
        )
        assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(OutputError, match="cannot write"):
        layerscope.analyze("a.npz").html("missing/x.html")


def test_a_name_that_is_no_text_is_told_in_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = b"caf\xe9.npz".decode("utf-8", "surrogateescape")
    with open(path, "wb") as file:
        np.savez(file, **{"x.weight": random(10, 10)})
    report = layerscope.analyze(path)
    assert "caf%E9.npz" in sarif.to_sarif([report])
    report.html("x.html")
    assert "caf" in Path("x.html").read_text("utf-8")
