"""The HTML page: what is in the file."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.demo import NETWORKS
from layerscope.records.report import Report
from layerscope.views.page import writing
from layerscope.views.rerun_command import comparison_command, report_command
from tests.command_line import cli
from tests.views.pages import data_of, deep


def test_the_page_holds_every_layer_with_its_numbers(pages: dict[str, Path], page_report: Report) -> None:
    head, *lines = data_of(pages["report"])
    analysed = [(i, row) for i, row in enumerate(page_report.rows) if not row.skipped]
    assert head["at"] == {str(i): line for line, (i, _) in enumerate(analysed, 1)}
    for (_, row), line in zip(analysed, lines, strict=True):
        assert line["name"] == row.name
        assert line["metrics"].keys() == row.metrics.keys()
        assert line["metrics"]["stable_rank"] == pytest.approx(row.metrics["stable_rank"], rel=1e-5)
        reasons = {name: head["reasons"][int(i)] for i, names in line["absent"].items() for name in names}
        assert reasons == dict(row.absent)
        assert [picture["name"] for picture in line["pictures"]] == ["esd", "esd_linear", "randomized", "xmin"]


def test_pages_stay_small(pages: dict[str, Path]) -> None:
    assert pages["100"].stat().st_size < 1.5e6
    assert pages["1000"].stat().st_size < 8e6


def test_equal_reports_are_equal_pages(page_report: Report) -> None:
    assert writing.render_page(page_report) == writing.render_page(page_report)


def test_the_page_refers_to_nothing_outside(pages: dict[str, Path]) -> None:
    for path in pages.values():
        text = path.read_text("utf-8")
        assert not re.search(r"""(?:src|href|action|poster|data)\s*=\s*["']?(?!#)[a-z]+:""", text)
        assert "@import" not in text
        assert "url(" not in text.replace("url(#", "")
        assert "default-src 'none'" in unescape(text)


def test_what_a_verdict_means_is_in_the_page(pages: dict[str, Path]) -> None:
    text = pages["report"].read_text("utf-8")
    assert "<strong>What to try.</strong>" in text
    assert "JMLR 22(165)" in text


def test_names_are_text_wherever_they_stand(pages: dict[str, Path]) -> None:
    for name in ("hostile", "hostile comparison"):
        text = pages[name].read_text("utf-8")
        assert "<img" not in text
        assert "\u202e" not in text
        assert "&lt;img src=x onerror=alert(1)&gt;" in text
        assert "\\u202egnp.exe" in text


def test_a_table_too_long_keeps_what_matters_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from layerscope.views.page import report_page

    monkeypatch.setattr(report_page, "MAX_TABLE_ROWS", 30)
    monkeypatch.setattr(report_page, "MAX_PICTURED_LAYERS", 12)
    found = deep(60)
    context, lines = report_page.build_page(found)
    grave = {f.layer for f in found.findings if f.severity != "info"}
    assert 0 < len(grave) < 30
    assert len(context["rows"]) == 30
    assert grave <= {found.rows[row.number].name for row in context["rows"]}
    assert "30 of 60 layers" in context["caption"]
    assert len(lines) == 13


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "layerscope analyze 'my net.npz'"),
        ({"randomize": True, "min_evals": 30}, "--min-evals 30 --randomize"),
        ({"evidence": True, "layers": ["fc*", "-fc2"]}, "--evidence -l 'fc*' -l -fc2"),
        ({"pool": False, "conv": "flat"}, "--conv flat --no-pool"),
        ({"null_cut": 1e-5}, "layerscope.analyze('my net.npz', null_cut=1e-05)"),
        ({"limits": layerscope.Limits(over_trained=2.5)}, "limits=layerscope.Limits(over_trained=2.5)"),
        ({"base": "my net.npz", "intra": True}, "--intra --base 'my net.npz'"),
    ],
)
def test_the_command_makes_the_report_again(
    options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("my net.npz", **{f"fc{i}.weight": rng.standard_normal((64, 64)) for i in range(1, 4)})
    found = layerscope.analyze("my net.npz", **options)
    line = report_command(found)
    assert said in line
    if line.startswith("layerscope analyze"):
        done = cli(*shlex.split(line)[1:], "-f", "json")
        assert done.returncode in (0, 4), done.stderr
        again = Report.from_json(done.stdout)
    else:
        again = eval(line)
    assert [dict(row.metrics) for row in again.rows] == [dict(row.metrics) for row in found.rows]
    assert again.settings == found.settings


def test_live_models_are_made_again_in_python() -> None:
    weights = {"a.weight": np.random.default_rng(0).standard_normal((60, 60))}
    assert report_command(layerscope.analyze(weights, layers="a*")) == "layerscope.analyze(model, layers=['a*'])"
    assert comparison_command(layerscope.compare(weights, weights)) == "layerscope.compare(model_1, model_2)"
    assert comparison_command(layerscope.compare(*NETWORKS)).startswith("layerscope compare /")


def test_the_command_line_writes_pages(tmp_path: Path) -> None:
    for words in (("analyze", NETWORKS[0]), ("analyze", *NETWORKS), ("compare", *NETWORKS)):
        done = cli(*words, "--html", tmp_path / "x.html")
        assert (done.returncode, done.stderr) == (0, "")
        assert ("fc3.weight" if len(words) == 2 else "side by side") in done.stdout  # the table is there too
        what = "report" if len(words) == 2 else "comparison"
        assert f"layerscope {what}</p>" in (tmp_path / "x.html").read_text("utf-8")
        (tmp_path / "x.html").unlink()
    done = cli("analyze", NETWORKS[0], "--html", tmp_path / "no" / "x.html")
    assert done.returncode == 2
    assert "does not exist" in done.stderr
