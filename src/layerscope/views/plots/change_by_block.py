"""Plot of a diff: the relative change of every weight, one row per role and one column per block."""

from __future__ import annotations

import math

from layerscope.records.report import Report
from layerscope.rules.model_changes import Changes, block, role
from layerscope.text import plural
from layerscope.views.plots.marks import Axis, Cells, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "model", "change"
LABEL = "‖W − W₀‖F/‖W₀‖F, the largest of each cell; empty: unchanged or not there"


def data(report: Report) -> Picture:
    """Return the relative change by block and role."""
    changes = Changes(report.rows)
    cells: dict[tuple[str, str], float] = {}
    roles: list[str] = []
    blocks: dict[str, int] = {}
    for row in changes.changed:
        number = block(row)
        column = "–" if number is None else str(number)
        blocks.setdefault(column, -1 if number is None else number)
        name = role(row)
        if name not in roles:
            roles.append(name)
        value = changes.number(row, "relative_change") or 0.0
        cells[name, column] = max(value, cells.get((name, column), 0.0))
    columns = sorted(blocks, key=blocks.__getitem__)
    values = tuple(tuple(cells.get((name, column), math.nan) for column in columns) for name in roles)
    most = max(cells.values(), default=1.0)
    is_diff = "diff" in report.meta
    return Picture(
        "change_by_block",
        "Change by block and role",
        f"{plural(len(changes.changed), 'changed tensor')} of {len(changes.compared)}",
        Axis("block", "category", tuple(columns)),
        (Axis("", "category", tuple(roles)),),
        (Cells(tone="ink", values=values, most=most, label=LABEL, fmt=".2g"),) if cells else (),
        empty="" if cells else "no tensor changed" if is_diff else "the report is no diff (layerscope diff)",
    )
