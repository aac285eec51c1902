"""What people see, kept as text: the tables of the demo networks at 80 columns, and a report's JSON.

Renew with ``LAYERSCOPE_RENEW=1 make test`` and read the difference before committing it.
"""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import layerscope
from layerscope.demo import NETWORKS
from layerscope.records.report import Report
from layerscope.views import markdown, side_by_side, table

HERE = Path(__file__).parent


def golden(name: str, text: str) -> None:
    path = HERE / name
    text = re.sub(r"\d+\.\d\d s\)", "0.00 s)", text)
    if os.environ.get("LAYERSCOPE_RENEW"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def rendered(draw: Any, *reports: Report, width: int = 80) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None, highlight=False, emoji=False, markup=False)
    draw(*reports, console)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    found = []
    for path in NETWORKS:
        report = layerscope.analyze(path)
        found.append(report.replace(meta={**report.meta, "target": Path(path).name}))
    return found


@pytest.mark.parametrize("width", [80, 120])
def test_the_table(reports: list[Report], width: int) -> None:
    golden(f"table_{width}.txt", "".join(rendered(table.print_report, report, width=width) for report in reports))


def test_the_description(reports: list[Report]) -> None:
    golden("describe_80.txt", rendered(table.print_description, layerscope.describe(reports[0])))


def test_side_by_side(reports: list[Report]) -> None:
    def draw(first: Report, second: Report, console: Console) -> None:
        side_by_side.print_side_by_side([first, second], console)

    golden("side_by_side_80.txt", rendered(draw, *reports))


def test_markdown(reports: list[Report]) -> None:
    golden("report.md", markdown.to_markdown(reports[1]))


def test_the_json_schema(reports: list[Report]) -> None:
    """Names and types of every field, and metrics recomputed from the spectra beside them."""

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(item) for key, item in sorted(value.items())}
        if isinstance(value, list):
            return [shape(value[0])] if value else []
        return "number" if isinstance(value, float | int) and not isinstance(value, bool) else type(value).__name__

    plain = json.loads(reports[1].to_json())
    golden("schema_1.json", json.dumps(shape(plain), indent=1, ensure_ascii=False) + "\n")
    for layer in plain["layers"]:
        if not layer["skipped"]:
            evals = reports[1].spectra[layer["name"]]
            assert layer["metrics"]["norm"] == pytest.approx(float(np.sum(evals)))
            assert layer["metrics"]["lambda_max"] == evals[-1]
            assert layer["num_evals"] == len(evals) == layer["rf"] * layer["M"]
