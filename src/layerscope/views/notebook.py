"""A report, or a comparison, as HTML for a notebook's cell: a compact picture and the table; names are escaped."""

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
from layerscope.views import headline, report_rows, table
from layerscope.views.comparison import alphas, distance_cells, distance_heads
from layerscope.views.plots import drawing

DESCRIBED = ("layer_id", "name", "layer_type", "shape", "size", "num_evals", "dtype", "note")
MOST_ROWS = 60  # of the table in a cell
SIZE = (8.0, 2.6)  # inches


def html(report: Report) -> str:
    """What was concluded, α by depth, the table of analysed layers and the findings; of a description its table."""
    described = headline.described(report)
    names = list(DESCRIBED) if described else table.by_importance(report)
    by_layer = headline.by_layer(report.findings)
    rows = [
        [_cell(report, layer, values, name, by_layer.get(layer.name, [])) for name in names]
        for layer, values in zip(report.rows, report_rows.rows(report), strict=True)
        if described or not layer.skipped
    ]
    heads = [table.head(name) for name in names]
    caption = f"{escape(printable(report.meta['target']))}: {plural(report.summary['analysed'], 'layer')} analysed"
    body = _table(heads, rows, caption)
    if described:
        return f"<div>{body}</div>"
    said = "".join(f"<p>{escape(line)}</p>" for line in headline.sentences(report))
    findings = "".join(
        f"<li><b>{escape(f.code)} {escape(f.title)}</b> {escape(printable(f.where))}: {escape(printable(f.message))}"
        "</li>"
        for f in [f for f in report.findings if f.severity != "info"][:MOST_ROWS]
    )
    return f"<div>{said}{_picture(report, 'alpha_by_depth')}{body}<ul>{findings}</ul></div>"


def comparison_html(comparison: Comparison) -> str:
    """The reading, the histograms of α, medians side by side, and the matched layers."""
    letters = comparison.letters
    names = "".join(f"<li>{x}: {escape(printable(n))}</li>" for x, n in zip(letters, comparison.names, strict=True))
    said = "".join(f"<li>{escape(printable(line, 600))}</li>" for line in comparison.reading)
    careful = "".join(f"<li><b>{escape(printable(line, 600))}</b></li>" for line in comparison.warnings)
    head, *medians = table.medians(comparison.reports, letters)
    heads = ["layer", *(f"α {x}" for x in letters), *distance_heads(comparison)]
    rows = [[printable(x.name), *alphas(x), *distance_cells(comparison, x)] for x in comparison.layers]
    picture = _picture(comparison, "alpha_histogram")
    matched = _table(heads, rows, plural(len(rows), "matched layer"))
    return f"<div><ul>{names}</ul><ul>{said}{careful}</ul>{picture}{_table(head, medians, '')}{matched}</div>"


def _cell(report: Report, layer: LayerReport, values: dict[str, Any], name: str, found: list[Finding]) -> str:
    return table.cell(report.settings, layer, values, name, found).text.strip()


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[:MOST_ROWS])
    more = len(rows) - MOST_ROWS
    if more > 0:
        body += f'<tr><td colspan="{len(heads)}">… and {more:,} more: frame() has all</td></tr>'
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _picture(found: Report | Comparison, name: str) -> str:
    """A picture as SVG in the cell, or how to get one."""

    try:
        figure = drawing.figure(name, found)
    except MissingExtra as missing:
        return f"<p>{escape(str(missing))}</p>"
    from matplotlib import rc_context

    figure.set_size_inches(SIZE)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):  # words stay words, escaped by the writer
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return f'<div role="img" aria-label="{name.replace("_", " ")}">{text[text.index("<svg") :]}</div>'
