"""A report, or a comparison, as Markdown that fits into a pull-request comment.

Names stand in ``<code>``, escaped: nobody is mentioned, nothing is linked, no markup of a stranger comes through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from layerscope.records.comparison import Comparison
from layerscope.records.findings import Finding
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import plural, printable, short
from layerscope.views import headline, report_rows, table
from layerscope.views.comparison import alphas, distance_cells, distance_heads
from layerscope.views.rerun_command import command, command_of

DESCRIBED = ("layer_id", "name", "layer_type", "shape", "size", "num_evals", "dtype", "note")
LONGEST = 60_000  # characters; GitHub takes 65,536 in a comment
LISTED = 10  # layers named below one verdict
LINKS = {
    "@": "@<!-- -->",
    "\\#": "\\#<!-- -->",
    "://": ":<!-- -->//",
    "www.": "www<!-- -->.",
}  # that GitHub makes itself
SIGNS = {"": "🟢", "thin": "⚪", "info": "🔵", "warn": "🟠", "error": "🔴", "failed": "🔴"}


def to_markdown(report: Report, columns: Sequence[str] = (), room: int = LONGEST) -> str:
    """The verdict in three sentences, the findings, how sure, and the layers to unfold; of a description its table."""
    described = headline.described(report)
    names = list(columns) or (list(DESCRIBED) if described else table.by_importance(report))
    heads = [table.head(name) for name in names]
    by_layer = headline.by_layer(report.findings)
    rows = [
        _cells(report, layer, values, names, by_layer.get(layer.name, []))
        for layer, values in zip(report.rows, report_rows.rows(report), strict=True)
        if described or not layer.skipped
    ]
    if described:
        return (
            "\n".join([f"### layerscope: {code(short(report.meta['target']))}", "", *_table(heads, rows, LONGEST)])
            + "\n"
        )
    first, *others = headline.sentences(report)
    sign = SIGNS[headline.standing(report)]
    lines = [f"### {sign} layerscope: {code(short(report.meta['target']))}", "", f"**{escape(first)}**"]
    lines += [escape(line) for line in others]
    lines += _findings(report)
    lines += [f"- failed: {code(row.name)}: {escape(row.skipped)}" for row in report.rows if row.failed][:LISTED]
    lines += ["", "<details><summary>How sure</summary>", "", *(f"- {escape(x)}" for x in headline.certainty(report))]
    lines += [f"- made by {code(command(report), 2000)}, layerscope {escape(report.meta.get('layerscope', '?'))}"]
    lines += ["", "</details>", ""]
    return _with_table("\n".join(lines), plural(len(rows), "layer"), heads, rows, room)


def comparison_to_markdown(comparison: Comparison) -> str:
    """The reading with its warnings, medians side by side, and the layers to unfold."""
    letters, names = comparison.letters, comparison.names
    worst = max(map(headline.standing, comparison.reports), key=list(SIGNS).index)
    lines = [f"### {SIGNS[worst]} layerscope: " + " against ".join(code(name) for name in names), ""]
    lines += [f"- {letter}: {code(name)}" for letter, name in zip(letters, names, strict=True)]
    lines += ["", f"**{escape(headline.of_several(comparison))}**", ""]
    lines += [f"- {escape(line)}" for line in comparison.reading]
    lines += [f"- ⚠️ **{escape(line)}**" for line in comparison.warnings]
    head, *medians = table.medians(comparison.reports, letters)
    lines += ["", *_table(head, [[escape(cell) for cell in row] for row in medians], LONGEST)]
    for letter, alone in zip(letters, comparison.unmatched, strict=True):
        if alone:
            listed = ", ".join(code(name) for name in alone[:LISTED]) + (", …" if len(alone) > LISTED else "")
            lines += ["", f"Analysed only in {letter}: {plural(len(alone), 'layer')}: {listed}"]
    lines += ["", f"Made by {code(command_of(comparison), 2000)}.", ""]
    heads = ["layer", *(f"α {letter}" for letter in letters), *distance_heads(comparison)]
    rows = [[code(layer.name), *alphas(layer), *distance_cells(comparison, layer)] for layer in comparison.layers]
    return _with_table("\n".join(lines), plural(len(rows), "matched layer"), heads, rows)


def escape(text: object, longest: int = 600) -> str:
    """Text that Markdown and the HTML it becomes show as it is; @names, #numbers and addresses stay dead."""
    shown = _escaped(printable(text, longest))
    for live, dead in LINKS.items():
        shown = shown.replace(live, dead)
    return shown


def code(name: object, longest: int = 200) -> str:
    """A stranger's name, in which nobody is mentioned and nothing becomes a link."""
    return f"<code>{escape(name, longest)}</code>"


def _escaped(shown: str) -> str:
    for c in "\\`*_[]|#~":
        shown = shown.replace(c, "\\" + c)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _findings(report: Report) -> list[str]:
    lines = []
    for key, found in headline.by_code(report.findings).items():
        title = f"{SIGNS[found[0].severity]} **{escape(key)} {escape(found[0].title)}**"
        if found[0].layer is None:
            lines.append(f"- {title}: {escape(found[0].message)}")
        elif found[0].severity == "info":
            lines.append(f"- {title}: {plural(len(found), 'layer')}")
        else:
            lines.append(f"- {title}: {plural(len(found), 'layer')}")
            lines += [f"  - {code(f.where)}: {escape(f.message)}" for f in found[:LISTED]]
            lines += [f"  - … and {len(found) - LISTED} more"] if len(found) > LISTED else []
    return ["", *lines] if lines else []


def _cells(
    report: Report, layer: LayerReport, values: dict[str, Any], names: Sequence[str], found: list[Finding]
) -> list[str]:
    return [
        code(layer.name)
        if name == "name"
        else escape(table.cell(report.settings, layer, values, name, found).text.strip())
        for name in names
    ]


def _with_table(text: str, what: str, heads: Sequence[str], rows: Sequence[Sequence[str]], room: int = LONGEST) -> str:
    if not rows:
        return text
    lines = _table(heads, rows, room - len(text))
    return "\n".join([text, f"<details><summary>{what}</summary>", "", *lines, "", "</details>", ""])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], room: int) -> list[str]:
    """A table; rows beyond the room are counted."""
    lines = ["| " + " | ".join(_escaped(head) for head in heads) + " |", "|" + " --- |" * len(heads)]
    left = room - sum(map(len, lines)) - 200
    more = 0
    for row in rows:
        line = "| " + " | ".join(row) + " |"
        left -= len(line) + 1
        if left < 0:
            more += 1
        else:
            lines.append(line)
    return [*lines, "", f"… and {more:,} more rows: --format csv has them all."] if more else lines
