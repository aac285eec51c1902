"""Render a report or a comparison as HTML for a notebook cell: a compact plot and the table, with escaped names."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import Any

from layerscope.errors import MissingExtra
from layerscope.records.comparison import Comparison
from layerscope.records.findings import Finding
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import plural, printable
from layerscope.views import headline, report_rows, side_by_side, table
from layerscope.views.comparison import alpha_cells, choose_distance_columns, distance_cells, distance_heads
from layerscope.views.plots import drawing

MAX_TABLE_ROWS = 60  # rows of the table in a cell
PICTURE_SIZE = (8.0, 2.6)  # inches


def report_html(report: Report) -> str:
    """Render the summary, α by depth, the table of analyzed layers and the findings.

    A description (a report without measurements) is rendered as its table only.
    """
    is_description = headline.is_description(report)
    names = list(table.DESCRIPTION_HTML_COLUMNS) if is_description else table.columns_by_importance(report)
    by_layer = headline.group_by_layer(report.findings)
    rows = [
        [_cell_text(report, layer, values, name, by_layer.get(layer.name, [])) for name in names]
        for layer, values in zip(report.rows, report_rows.rows(report), strict=True)
        if is_description or not layer.skipped
    ]
    heads = [table.column_head(name) for name in names]
    caption = f"{escape(printable(report.meta['target']))}: {plural(report.summary['analysed'], 'layer')} analyzed"
    body = _table_html(heads, rows, caption)
    if is_description:
        return f"<div>{body}</div>"
    sentences = "".join(f"<p>{escape(line)}</p>" for line in headline.summary_sentences(report))
    findings = "".join(
        f"<li><b>{escape(f.code)} {escape(f.title)}</b> {escape(printable(f.where))}: {escape(printable(f.message))}"
        "</li>"
        for f in [f for f in report.findings if f.severity != "info"][:MAX_TABLE_ROWS]
    )
    return f"<div>{sentences}{_picture_html(report, 'alpha_by_depth')}{body}<ul>{findings}</ul></div>"


def comparison_html(comparison: Comparison) -> str:
    """Render the conclusions, the histograms of α, the medians side by side and the matched layers."""
    letters = comparison.letters
    names = "".join(f"<li>{x}: {escape(printable(n))}</li>" for x, n in zip(letters, comparison.names, strict=True))
    reading = "".join(f"<li>{escape(printable(line, 600))}</li>" for line in comparison.reading)
    warnings = "".join(f"<li><b>{escape(printable(line, 600))}</b></li>" for line in comparison.warnings)
    head, *medians = side_by_side.median_rows(comparison.reports, letters)
    heads = ["layer", *(f"α {x}" for x in letters), *distance_heads(comparison)]
    columns = choose_distance_columns(comparison)
    rows = [[printable(x.name), *alpha_cells(x), *distance_cells(columns, x)] for x in comparison.layers]
    picture = _picture_html(comparison, "alpha_histogram")
    matched = _table_html(heads, rows, plural(len(rows), "matched layer"))
    return f"<div><ul>{names}</ul><ul>{reading}{warnings}</ul>{picture}{_table_html(head, medians, '')}{matched}</div>"


def _cell_text(report: Report, layer: LayerReport, values: dict[str, Any], name: str, findings: list[Finding]) -> str:
    return table.make_cell(report.settings, layer, values, name, findings).text.strip()


def _table_html(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[:MAX_TABLE_ROWS])
    more = len(rows) - MAX_TABLE_ROWS
    if more > 0:
        body += f'<tr><td colspan="{len(heads)}">… and {more:,} more rows; frame() returns all of them</td></tr>'
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _picture_html(record: Report | Comparison, name: str) -> str:
    """Return a plot as inline SVG, or a note on how to install matplotlib."""
    try:
        figure = drawing.make_figure(name, record)
    except MissingExtra as missing:
        return f"<p>{escape(str(missing))}</p>"
    from matplotlib import rc_context

    figure.set_size_inches(PICTURE_SIZE)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):  # keep text as text; matplotlib escapes it
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return f'<div role="img" aria-label="{name.replace("_", " ")}">{text[text.index("<svg") :]}</div>'
