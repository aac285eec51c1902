"""A report as CSV or Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from layerscope import registry
from layerscope.report import Report
from layerscope.views import frame
from layerscope.views.text import number, plural, printable

CELL = 32_000  # characters that spreadsheets take in a cell
MARKDOWN = ("layer_id", "name", "N", "M", "num_evals", "alpha", "alpha_low", "alpha_high", "log_spectral_norm",
            "stable_rank", "phase", "verdicts")  # fmt: skip


def to_csv(reports: Sequence[Report], columns: Sequence[str] = ()) -> str:
    """Every tensor a row, every column; absent values are empty. Several reports get a first column ``target``."""
    names = list(columns) or frame.columns()
    several = len(reports) > 1
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["target", *names] if several else names)
    for report in reports:
        for row in frame.rows(report):
            values = [row[name] for name in names]
            writer.writerow([_csv(v) for v in ([report.meta["target"], *values] if several else values)])
    return buffer.getvalue()


def _csv(value: object) -> object:
    if isinstance(value, list):
        return "×".join(map(str, value))
    return printable(value, CELL) if isinstance(value, str) else value


def to_markdown(report: Report, columns: Sequence[str] = ()) -> str:
    """The analysed layers as a table, then the findings: fit for a pull-request comment."""
    names = list(columns) or list(MARKDOWN)
    plugins = registry.plugins("metrics")
    formats = {name: str(plugins[name].meta["fmt"]) if name in plugins else "s" for name in names}
    lines = [f"### layerscope: {escape(report.meta['target'])}", ""]
    lines += ["| " + " | ".join(escape(name) for name in names) + " |", "|" + " --- |" * len(names)]
    described = all(row.spectrum is None and not row.failed for row in report.rows)
    for row in frame.rows(report):
        if described or not row["skipped"]:
            cells = [escape(number(row[name], formats[name]) if name != "shape" else _csv(row[name])) for name in names]
            lines.append("| " + " | ".join(cells) + " |")
    summary = report.summary
    if described:
        return "\n".join(lines) + "\n"
    median = summary["metrics"].get("alpha", {}).get("median")
    lines += ["", f"{plural(summary['analysed'], 'layer')} analysed, median α {number(median, '.2f')}."]
    for finding in report.findings:
        if finding.severity != "info":
            what = f"**{escape(finding.code)} {escape(finding.title)}**"
            lines.append(f"- {what} {escape(finding.where)}: {escape(finding.message)}")
    lines += [f"- failed: {escape(name)}" for name in summary["failed"]]
    return "\n".join(lines) + "\n"


def escape(text: object) -> str:
    """Text that Markdown and the HTML it becomes show as it is."""
    shown = printable(text)
    for c in "\\`*_[]|#":
        shown = shown.replace(c, "\\" + c)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
