"""A report, or a comparison, as HTML for a notebook's cell: a compact picture and the table; names are escaped."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape

from layerscope import registry
from layerscope.errors import MissingExtra
from layerscope.report import Comparison, Report
from layerscope.views import frame, table, verdict
from layerscope.views.comparison import SHOWN
from layerscope.views.text import number, plural, printable

COLUMNS = ("layer_id", "name", "layer_type", "N", "M", "num_evals", "alpha", "alpha_low", "alpha_high", "D",
           "log_spectral_norm", "stable_rank", "phase", "verdicts")  # fmt: skip
DESCRIBED = ("layer_id", "name", "layer_type", "shape", "N", "M", "num_evals", "dtype", "how", "skipped")
MOST_ROWS = 60  # of the table in a cell
SIZE = (8.0, 2.6)  # inches


def html(report: Report) -> str:
    """What was concluded, α by depth, the table of analysed layers and the findings; of a description its table."""
    described = all(row.spectrum is None and not row.metrics for row in report.rows)
    names = DESCRIBED if described else COLUMNS
    rows = [row for row in frame.rows(report) if described or not row["skipped"]]
    caption = f"{escape(printable(report.meta['target']))}: {plural(report.summary['analysed'], 'layer')} analysed"
    body = _table(names, [[_cell(row, name) for name in names] for row in rows], caption)
    if described:
        return f"<div>{body}</div>"
    said = "".join(f"<p>{escape(line)}</p>" for line in verdict.sentences(report))
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
    heads = ["layer", *(f"α {x}" for x in letters), *(label for _, label, _ in SHOWN)]
    rows = []
    for layer in comparison.layers:
        last = layer.distances[-1] if layer.distances else {}
        alphas = [number(m.get("alpha"), ".2f") for m in layer.metrics]
        rows.append([printable(layer.name), *alphas, *(number(last.get(name), fmt) for name, _, fmt in SHOWN)])
    picture = _picture(comparison, "alpha_histogram")
    matched = _table(heads, rows, plural(len(rows), "matched layer"))
    return f"<div><ul>{names}</ul><ul>{said}{careful}</ul>{picture}{_table(head, medians, '')}{matched}</div>"


def _cell(row: dict[str, object], name: str) -> str:
    value, plugin = row[name], registry.plugins("metrics").get(name)
    if isinstance(value, list):
        return "×".join(map(str, value))
    return printable(number(value, str(plugin.meta["fmt"]) if plugin is not None else "s"))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[:MOST_ROWS])
    more = len(rows) - MOST_ROWS
    if more > 0:
        body += f'<tr><td colspan="{len(heads)}">… and {more:,} more: frame() has all</td></tr>'
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _picture(found: Report | Comparison, name: str) -> str:
    """A picture as SVG in the cell, or how to get one."""
    from layerscope.views import plots

    try:
        figure = plots.figure(name, found)
    except MissingExtra as missing:
        return f"<p>{escape(str(missing))}</p>"
    from matplotlib import rc_context

    figure.set_size_inches(SIZE)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):  # words stay words, escaped by the writer
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return f'<div role="img" aria-label="{name.replace("_", " ")}">{text[text.index("<svg") :]}</div>'
