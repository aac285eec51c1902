"""The example notebooks run from top to bottom and show what their text says.

``LAYERSCOPE_RENEW=1`` writes them back with what they showed.
"""

from __future__ import annotations

import base64
import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.records.report import Report
from layerscope.views import notebook
from tests.requirements import require
from tests.samples import HOSTILE

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def run(name: str, tmp_path: Path) -> Any:
    nbformat = require("nbformat")
    nbclient = require("nbclient")
    require("ipykernel")
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in book.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
    if os.environ.get("LAYERSCOPE_RENEW"):
        nbformat.write(book, NOTEBOOKS / f"{name}.ipynb")
    return book


def shown(book: Any, kind: str) -> list[str]:
    return [o["data"][kind] for c in book.cells for o in c.get("outputs", []) if kind in o.get("data", {})]


def streams(book: Any) -> str:
    return "".join(o["text"] for c in book.cells for o in c.get("outputs", []) if o["output_type"] == "stream")


def test_the_story_of_the_overtrained_layer(tmp_path: Path) -> None:
    book = run("overtrained-layer", tmp_path)
    described, report, table = shown(book, "text/html")
    assert "<td>2.weight</td>" in described
    assert "No problems found by these checks" in report
    assert '<div role="img" aria-label="alpha by depth"><svg' in report
    cells = [row.split("<td>")[1:] for row in table.split("<tr>")[1:] if "<td>" in row]
    numbers = [[float(cell.partition("<")[0]) for cell in row[:3]] for row in cells]
    assert [row[0] for row in numbers] == [32, 16, 8, 4, 2, 1]
    alphas = [row[2] for row in numbers]
    assert alphas == sorted(alphas, reverse=True)
    best = max(range(6), key=lambda i: numbers[i][1])
    assert 0 < best < 5  # not the largest batch, not the smallest
    figures = shown(book, "image/png")
    assert len(figures) == 4
    assert all(base64.b64decode(figure).startswith(b"\x89PNG") for figure in figures)
    assert streams(book) == ""


def test_the_story_of_enough_data(tmp_path: Path) -> None:
    book = run("enough-data", tmp_path)
    little, enough = (float(word) for word in streams(book).replace("%", " ").split() if word.replace(".", "").isdigit()
                      and "." in word)  # fmt: skip
    assert little + 10 < enough
    comparison = shown(book, "text/html")[-1]
    assert "): heavier tails." in comparison
    assert "α of B is lower than that of A in" in comparison
    progress = shown(book, "text/html")[:-1]
    assert len(progress) == 2
    assert all('<progress max="1" value="1.0000">' in bar for bar in progress)
    assert len(shown(book, "image/png")) == 4


def test_a_tqdm_bar_and_a_function_follow_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    tqdm = require("tqdm").tqdm
    weights = {f"{i}.weight": np.random.default_rng(i).standard_normal((60, 60)) for i in range(4)}
    bars: list[Any] = []

    class Kept(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            bars.append(self)

    layerscope.analyze(weights, progress=Kept)
    assert [bar.n == pytest.approx(bar.total) and bar.total > 0 for bar in bars] == [True]
    assert "100%" in capsys.readouterr().err
    seen: list[Any] = []
    layerscope.analyze(weights, progress=lambda *told: seen.append(told))
    assert seen[0][0] is None
    assert {layer.name for layer, _, _ in seen[1:]} == set(weights)
    assert sum(cost for _, cost, _ in seen) == pytest.approx(seen[0][2])
    layerscope.analyze(weights, progress=True)  # no terminal here: no bar, no error
    assert capsys.readouterr().err == ""


def test_a_cell_shows_names_as_text() -> None:
    rng = np.random.default_rng(2)
    report = layerscope.analyze({name: rng.standard_normal((60, 55)) for name in HOSTILE})
    for cell in (notebook.report_html(report), notebook.comparison_html(layerscope.compare(report, report))):
        assert "<img" not in cell
        picture = cell[cell.index("<svg") : cell.index("</svg>") + 6]
        words = "".join(ET.fromstring(picture).itertext())
        assert ("<img src=x onerror=alert(1)>" in words) == ("alpha by depth" in cell)
        assert "&lt;img src=x onerror=alert(1)&gt;" in cell
        assert "\u202e" not in cell


def test_a_long_table_is_cut_and_says_so() -> None:
    report = layerscope.analyze({f"{i}.weight": np.eye(4) for i in range(100)})
    assert "… and 40 more rows; frame() returns all of them" in notebook.report_html(report)
    assert isinstance(report, Report)
