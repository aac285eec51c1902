"""No spreadsheet runs a name of a layer or of a target, and our own reader gives it back unchanged."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import layerscope
from layerscope.text import printable
from layerscope.views import comparison, csv_table
from layerscope.views.csv_cells import FORMULA, protect, read_csv, unprotect
from layerscope.views.landscape import matrix_csv_lines

NAMES = ("=cmd|'/c calc'!A0", "+1+1", "@SUM(1)", "-2+3", "\tx", "\rx", "'=1+1", "''+1", "plain", "it's", "=")


@given(st.one_of(st.sampled_from(NAMES), st.text(st.characters(exclude_categories=["Cs"]))))
def test_a_cell_comes_back_and_is_no_formula(text: str) -> None:
    shown = protect(text)
    assert unprotect(shown) == text
    assert shown[:1] not in ("=", "+", "-", "@", "\t", "\r")


@pytest.mark.parametrize("name", NAMES)
def test_reports_and_comparisons(name: str) -> None:
    rng = np.random.default_rng(0)
    model = {name: rng.normal(size=(60, 50)), "fc.weight": rng.normal(size=(60, 50))}
    report = layerscope.analyze(model)
    other = layerscope.analyze({key: value + 1 for key, value in model.items()})
    tables = (
        csv_table.to_csv([report]),
        csv_table.to_csv([report.replace(meta={**report.meta, "target": name}), report]),
        comparison.to_csv(layerscope.compare(report, other)),
        "\n".join(matrix_csv_lines([name, "b"], [[0.0, 1.0], [1.0, 0.0]])),
    )
    for table in tables:
        cells = [cell for row in csv.reader(io.StringIO(table)) for cell in row]
        texts = [cell for cell in cells if not _is_number(cell)]
        assert not [cell for cell in texts if FORMULA.match(cell) and not cell.startswith("'")]
    names = [row["name"] for row in read_csv(tables[0])]
    assert names == [printable(row.name) for row in report.rows]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_the_command_line_writes_protected_cells(tmp_path: Path) -> None:
    from tests.command_line import cli

    np.savez(tmp_path / "m.npz", **{"=1+1": np.random.default_rng(0).normal(size=(60, 50))})
    result = cli("analyze", str(tmp_path / "m.npz"), "-f", "csv")
    assert "\n0,'=1+1," in result.stdout or ",'=1+1," in result.stdout
