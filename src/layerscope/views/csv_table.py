"""Render reports as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from layerscope.records.report import Report
from layerscope.text import printable
from layerscope.views import report_rows
from layerscope.views.csv_cells import protect

MAX_CELL_CHARS = 32_000  # limit of common spreadsheets for one cell


def to_csv(reports: Sequence[Report], columns: Sequence[str] = ()) -> str:
    """Write one CSV row per tensor; absent values are empty, and several reports get a first column ``target``.

    :param columns: column names; all columns if empty.
    """
    names = list(columns) or report_rows.columns()
    several = len(reports) > 1
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["target", *names] if several else names)
    for report in reports:
        for row in report_rows.rows(report):
            values = [row[name] for name in names]
            writer.writerow([_format_value(v) for v in ([report.meta["target"], *values] if several else values)])
    return buffer.getvalue()


def _format_value(value: object) -> object:
    if isinstance(value, list):
        return protect("×".join(map(str, value)))
    return protect(printable(value, MAX_CELL_CHARS)) if isinstance(value, str) else value
