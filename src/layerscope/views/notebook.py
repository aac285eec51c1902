"""A report as HTML for a notebook cell."""

from __future__ import annotations

from html import escape

from layerscope import registry
from layerscope.report import Report
from layerscope.views import frame
from layerscope.views.text import number, plural, printable

COLUMNS = ("layer_id", "name", "layer_type", "N", "M", "num_evals", "alpha", "alpha_low", "alpha_high", "D",
           "log_spectral_norm", "stable_rank", "phase", "verdicts")  # fmt: skip


def html(report: Report) -> str:
    """The table of analysed layers and the findings; every name is escaped."""
    plugins = registry.plugins("metrics")
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = []
    for row in frame.rows(report):
        if not row["skipped"]:
            formats = ((name, str(plugins[name].meta["fmt"]) if name in plugins else "s") for name in COLUMNS)
            cells = "".join(f"<td>{escape(printable(number(row[name], fmt)))}</td>" for name, fmt in formats)
            body.append(f"<tr>{cells}</tr>")
    findings = "".join(
        f"<li><b>{escape(f.code)} {escape(f.title)}</b> {escape(printable(f.where))}: {escape(f.message)}</li>"
        for f in report.findings
        if f.severity != "info"
    )
    caption = f"{escape(printable(report.meta['target']))}: {plural(report.summary['analysed'], 'layer')} analysed"
    return (
        f"<div><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table><ul>{findings}</ul></div>"
    )
