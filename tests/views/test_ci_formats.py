"""What other projects' CI reads: Markdown for a comment, SARIF for code scanning, JUnit for test reports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

import layerscope
from layerscope.demo import NETWORKS
from layerscope.records.report import Report
from layerscope.views import junit, sarif
from layerscope.views.markdown import MAX_COMMENT_CHARS, comparison_to_markdown, to_markdown
from tests.command_line import cli
from tests.requirements import require
from tests.samples import HOSTILE


@pytest.fixture(scope="module")
def report() -> Report:
    return layerscope.analyze(NETWORKS[1])


@pytest.fixture(scope="module")
def hostile() -> Report:
    rng = np.random.default_rng(2)
    names = [*HOSTILE, "@someone", "see #12 and https://evil.example", "]]></failure>", "\x00\x1b[31mred", "\ud800"]
    weights = {name: rng.standard_normal((60, 55)) * rng.pareto(1.0, 55) for name in names}
    return layerscope.analyze({**weights, "broken": np.full((60, 55), np.nan)})


def rendered(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


# --- Markdown --------------------------------------------------------------------------------------------------


def test_the_comment_says_the_verdict_first(report: Report) -> None:
    lines = to_markdown(report).split("\n")
    assert lines[0].startswith("### 🟠 layerscope: ")
    assert lines[2].startswith(
        "**Problems found in 1 of 4 layers: LS115 isolated outlier weight in 1 layer (fc3.weight). "
    )
    page = rendered(to_markdown(report))
    assert page.count("<tr>") == 5
    assert page.count("<details>") == page.count("</details>") == 2


def test_a_comment_fits_where_comments_go() -> None:
    rng = np.random.default_rng(0)
    found = layerscope.analyze({f"model.layers.{i}.mlp.weight": rng.standard_normal((9, 8)) for i in range(1500)})
    text = to_markdown(found)
    assert len(text) < 65_536
    assert len(text) > MAX_COMMENT_CHARS / 2
    assert "more rows; use --format csv to list all of them." in text
    assert len(comparison_to_markdown(layerscope.compare(found, found))) < 65_536


def test_nothing_of_a_name_is_markup_in_a_comment(hostile: Report) -> None:
    for text in (to_markdown(hostile), comparison_to_markdown(layerscope.compare(hostile, hostile))):
        page = rendered(text)
        assert "<img" not in text + page
        assert "\u202e" not in text
        assert "href" not in page
        assert "<code>@<!-- -->someone</code>" in page
        assert not re.search(r"@\w|#\d|://|www\.", page)  # GitHub makes links of them, in code of HTML too
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


# --- SARIF -----------------------------------------------------------------------------------------------------


def test_sarif_is_what_its_schema_says(report: Report, hostile: Report) -> None:
    model = require("sarif_pydantic")
    text = sarif.to_sarif([report, hostile])
    log = model.Sarif.model_validate_json(text)
    assert [len(run.results) for run in log.runs] == [len(report.findings), len(hostile.findings)]
    first = json.loads(text)["runs"][0]
    for result, finding in zip(first["results"], report.findings, strict=True):
        assert result["ruleId"] == finding.code == first["tool"]["driver"]["rules"][result["ruleIndex"]]["id"]
        assert result["level"] == {"info": "note", "warn": "warning", "error": "error"}[finding.severity]
        (place,) = result["locations"]
        assert place["logicalLocations"][0]["fullyQualifiedName"] == finding.layer
        assert place["physicalLocation"]["artifactLocation"]["uri"].startswith("file:///")
    assert len({result["partialFingerprints"]["layerscope/v1"] for result in first["results"]}) == len(report.findings)
    second = json.loads(text)["runs"][1]
    assert second["invocations"][0]["executionSuccessful"] is False
    assert "broken" in second["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        ("models/my net.pt", "models/my%20net.pt"),
        ("/a/b#1.pt", "file:///a/b%231.pt"),
        ("s3://bucket/x.safetensors", "s3://bucket/x.safetensors"),
        ("openai/gpt2", "openai/gpt2"),
    ],
)
def test_targets_become_uris(target: str, uri: str) -> None:
    assert sarif.target_uri(target) == uri


# --- JUnit -----------------------------------------------------------------------------------------------------


def cases(text: str) -> dict[str, Any]:
    parser = require("junitparser")
    return {case.name: case for suite in parser.JUnitXml.fromstring(text.encode()) for case in suite}


def test_each_layer_is_a_test(report: Report, hostile: Report) -> None:
    found = cases(junit.to_junit([report]))
    assert list(found) == ["fc1.weight", "fc2.weight", "fc3.weight", "fc4.weight", "the whole model"]
    assert [case.is_failure for case in found.values()] == [False, False, True, False, False]
    assert "Weight [17, 42] = 5" in found["fc3.weight"].result[0].message
    assert "LS107" in found["fc4.weight"].system_out
    found = cases(junit.to_junit([hostile]))
    assert found["broken"].is_error
    assert found["<img src=x onerror=alert(1)>"].time is not None


def test_failures_are_what_the_exit_code_says(report: Report) -> None:
    assert not any(case.is_failure for case in cases(junit.to_junit([report], "error")).values())
    for level, code in (("warn", 1), ("error", 0)):
        done = cli("analyze", NETWORKS[1], "-q", "-f", "junit", "--fail-on", level)
        assert done.returncode == code
        assert any(case.is_failure for case in cases(done.stdout).values()) == bool(code)


def test_nothing_analysed_is_no_success() -> None:
    found = cases(junit.to_junit([layerscope.analyze({"a.bias": np.ones(3)})]))
    assert found["the whole model"].is_error


def test_the_command_line_knows_the_formats() -> None:
    done = cli("analyze", *NETWORKS, "-q", "-f", "sarif")
    assert [len(run["results"]) > 0 for run in json.loads(done.stdout)["runs"]] == [True, True]
    done = cli("describe", NETWORKS[0], "-f", "sarif")  # a description judges nothing
    assert done.returncode == 2


def test_the_documented_workflow_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "ci.md").read_text("utf-8")
    workflow = (
        page.partition("## GitHub Actions")[2].partition("## GitLab CI")[0].partition("```yaml")[2].partition("```")[0]
    )
    commands = re.findall(r"layerscope analyze .*", workflow)
    assert len(commands) == 5
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.safetensors").symlink_to(NETWORKS[1])
    codes = []
    for command in commands:
        words = command.split()
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.stderr == ""
        codes.append(done.returncode)
    assert codes == [0, 0, 0, 0, 1]
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"models", "model.layerscope", "report.html", "summary.md", "layerscope.sarif", "layerscope.xml"}
