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
from layerscope.text import plural, printable, short_target
from layerscope.views import headline, report_rows, table
from layerscope.views.comparison import alpha_cells, distance_cells, distance_heads
from layerscope.views.rerun_command import comparison_command, report_command

MAX_COMMENT_CHARS = 60_000  # characters; GitHub takes 65,536 in a comment
MAX_LISTED_LAYERS = 10  # layers named below one verdict
LINK_BREAKERS = {
    "@": "@<!-- -->",
    "\\#": "\\#<!-- -->",
    "://": ":<!-- -->//",
    "www.": "www<!-- -->.",
}  # that GitHub makes itself
STATUS_SIGNS = {"": "🟢", "thin": "⚪", "info": "🔵", "warn": "🟠", "error": "🔴", "failed": "🔴"}


def to_markdown(report: Report, columns: Sequence[str] = (), room: int = MAX_COMMENT_CHARS) -> str:
    """The verdict in three sentences, the findings, how sure, and the layers to unfold; of a description its table."""
    is_description = headline.is_description(report)
    names = list(columns) or (
        list(table.DESCRIPTION_HTML_COLUMNS) if is_description else table.columns_by_importance(report)
    )
    heads = [table.column_head(name) for name in names]
    by_layer = headline.group_by_layer(report.findings)
    rows = [
        _layer_cells(report, layer, values, names, by_layer.get(layer.name, []))
        for layer, values in zip(report.rows, report_rows.rows(report), strict=True)
        if is_description or not layer.skipped
    ]
    if is_description:
        return (
            "\n".join(
                [
                    f"### layerscope: {code_html(short_target(report.meta['target']))}",
                    "",
                    *_table_lines(heads, rows, MAX_COMMENT_CHARS),
                ]
            )
            + "\n"
        )
    first, *others = headline.summary_sentences(report)
    sign = STATUS_SIGNS[headline.overall_status(report)]
    lines = [f"### {sign} layerscope: {code_html(short_target(report.meta['target']))}", "", f"**{escape(first)}**"]
    lines += [escape(line) for line in others]
    lines += _finding_lines(report)
    lines += [f"- failed: {code_html(row.name)}: {escape(row.skipped)}" for row in report.rows if row.failed][
        :MAX_LISTED_LAYERS
    ]
    lines += [
        "",
        "<details><summary>How sure</summary>",
        "",
        *(f"- {escape(x)}" for x in headline.certainty_sentences(report)),
    ]
    lines += [
        f"- made by {code_html(report_command(report), 2000)}, layerscope {escape(report.meta.get('layerscope', '?'))}"
    ]
    lines += ["", "</details>", ""]
    return _append_table("\n".join(lines), plural(len(rows), "layer"), heads, rows, room)


def comparison_to_markdown(comparison: Comparison) -> str:
    """The reading with its warnings, medians side by side, and the layers to unfold."""
    letters, names = comparison.letters, comparison.names
    worst = max(map(headline.overall_status, comparison.reports), key=list(STATUS_SIGNS).index)
    lines = [f"### {STATUS_SIGNS[worst]} layerscope: " + " against ".join(code_html(name) for name in names), ""]
    lines += [f"- {letter}: {code_html(name)}" for letter, name in zip(letters, names, strict=True)]
    lines += ["", f"**{escape(headline.comparison_sentence(comparison))}**", ""]
    lines += [f"- {escape(line)}" for line in comparison.reading]
    lines += [f"- ⚠️ **{escape(line)}**" for line in comparison.warnings]
    head, *medians = table.median_rows(comparison.reports, letters)
    lines += ["", *_table_lines(head, [[escape(cell) for cell in row] for row in medians], MAX_COMMENT_CHARS)]
    for letter, unmatched in zip(letters, comparison.unmatched, strict=True):
        if unmatched:
            listed = ", ".join(code_html(name) for name in unmatched[:MAX_LISTED_LAYERS]) + (
                ", …" if len(unmatched) > MAX_LISTED_LAYERS else ""
            )
            lines += ["", f"Analysed only in {letter}: {plural(len(unmatched), 'layer')}: {listed}"]
    lines += ["", f"Made by {code_html(comparison_command(comparison), 2000)}.", ""]
    heads = ["layer", *(f"α {letter}" for letter in letters), *distance_heads(comparison)]
    rows = [
        [code_html(layer.name), *alpha_cells(layer), *distance_cells(comparison, layer)] for layer in comparison.layers
    ]
    return _append_table("\n".join(lines), plural(len(rows), "matched layer"), heads, rows)


def escape(text: object, longest: int = 600) -> str:
    """Text that Markdown and the HTML it becomes show as it is; @names, #numbers and addresses stay dead."""
    shown = _escape_markup(printable(text, longest))
    for live, dead in LINK_BREAKERS.items():
        shown = shown.replace(live, dead)
    return shown


def code_html(name: object, longest: int = 200) -> str:
    """A stranger's name, in which nobody is mentioned and nothing becomes a link."""
    return f"<code>{escape(name, longest)}</code>"


def _escape_markup(shown: str) -> str:
    for character in "\\`*_[]|#~":
        shown = shown.replace(character, "\\" + character)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _finding_lines(report: Report) -> list[str]:
    lines = []
    for key, findings in headline.group_by_code(report.findings).items():
        title = f"{STATUS_SIGNS[findings[0].severity]} **{escape(key)} {escape(findings[0].title)}**"
        if findings[0].layer is None:
            lines.append(f"- {title}: {escape(findings[0].message)}")
        elif findings[0].severity == "info":
            lines.append(f"- {title}: {plural(len(findings), 'layer')}")
        else:
            lines.append(f"- {title}: {plural(len(findings), 'layer')}")
            lines += [f"  - {code_html(f.where)}: {escape(f.message)}" for f in findings[:MAX_LISTED_LAYERS]]
            lines += (
                [f"  - … and {len(findings) - MAX_LISTED_LAYERS} more"] if len(findings) > MAX_LISTED_LAYERS else []
            )
    return ["", *lines] if lines else []


def _layer_cells(
    report: Report, layer: LayerReport, values: dict[str, Any], names: Sequence[str], findings: list[Finding]
) -> list[str]:
    return [
        code_html(layer.name)
        if name == "name"
        else escape(table.make_cell(report.settings, layer, values, name, findings).text.strip())
        for name in names
    ]


def _append_table(
    text: str, what: str, heads: Sequence[str], rows: Sequence[Sequence[str]], room: int = MAX_COMMENT_CHARS
) -> str:
    if not rows:
        return text
    lines = _table_lines(heads, rows, room - len(text))
    return "\n".join([text, f"<details><summary>{what}</summary>", "", *lines, "", "</details>", ""])


def _table_lines(heads: Sequence[str], rows: Iterable[Sequence[str]], room: int) -> list[str]:
    """A table; rows beyond the room are counted."""
    lines = ["| " + " | ".join(_escape_markup(head) for head in heads) + " |", "|" + " --- |" * len(heads)]
    remaining = room - sum(map(len, lines)) - 200
    omitted = 0
    for row in rows:
        line = "| " + " | ".join(row) + " |"
        remaining -= len(line) + 1
        if remaining < 0:
            omitted += 1
        else:
            lines.append(line)
    return [*lines, "", f"… and {omitted:,} more rows: --format csv has them all."] if omitted else lines
