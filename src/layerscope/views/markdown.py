"""Render a report or a comparison as Markdown that fits into a pull-request comment.

Names from the model are escaped inside ``<code>``, so they cannot mention users, create links or inject markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from layerscope.records.comparison import Comparison
from layerscope.records.findings import Finding
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import plural, printable, short_target, split_common_ending
from layerscope.views import headline, report_rows, side_by_side, table
from layerscope.views.comparison import alpha_cells, choose_distance_columns, distance_cells, distance_heads
from layerscope.views.rerun_command import comparison_command, report_command

MAX_COMMENT_CHARS = 60_000  # characters; GitHub takes 65,536 in a comment
MAX_MESSAGE_CHARS = 800  # of a verdict
MAX_LISTED_LAYERS = 10  # layers listed for each finding code
LINK_BREAKERS = {
    "@": "@<!-- -->",
    "\\#": "\\#<!-- -->",
    "://": ":<!-- -->//",
    "www.": "www<!-- -->.",
}  # prevents mentions and links that GitHub creates automatically
STATUS_SIGNS = {"": "🟢", "thin": "⚪", "info": "🔵", "warn": "🟠", "error": "🔴", "failed": "🔴"}


def to_markdown(report: Report, columns: Sequence[str] = (), room: int = MAX_COMMENT_CHARS) -> str:
    """Render a three-sentence summary, the findings, their reliability and a collapsed table of layers.

    A description (a report without measurements) is rendered as its table only.
    """
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
        "<details><summary>How reliable these results are</summary>",
        "",
        *(f"- {escape(x)}" for x in headline.certainty_sentences(report)),
    ]
    version = escape(report.meta.get("layerscope", "?"))
    lines += [f"- Created by {code_html(report_command(report), 2000)} with layerscope {version}"]
    lines += ["", "</details>", ""]
    return _append_table("\n".join(lines), plural(len(rows), "layer"), heads, rows, room)


def comparison_to_markdown(comparison: Comparison) -> str:
    """Render the conclusions, the warnings, the medians side by side and a collapsed table of matched layers."""
    letters, names = comparison.letters, comparison.names
    worst = max(map(headline.overall_status, comparison.reports), key=list(STATUS_SIGNS).index)
    lines = [f"### {STATUS_SIGNS[worst]} layerscope: " + " against ".join(code_html(name) for name in names), ""]
    lines += [f"- {letter}: {code_html(name)}" for letter, name in zip(letters, names, strict=True)]
    lines += ["", f"**{escape(headline.comparison_sentence(comparison))}**", ""]
    lines += [f"- {escape(line)}" for line in comparison.reading]
    lines += [f"- ⚠️ **{escape(line)}**" for line in comparison.warnings]
    head, *medians = side_by_side.median_rows(comparison.reports, letters)
    lines += ["", *_table_lines(head, [[escape(cell) for cell in row] for row in medians], MAX_COMMENT_CHARS)]
    for letter, unmatched in zip(letters, comparison.unmatched, strict=True):
        if unmatched:
            listed = ", ".join(code_html(name) for name in unmatched[:MAX_LISTED_LAYERS]) + (
                ", …" if len(unmatched) > MAX_LISTED_LAYERS else ""
            )
            lines += ["", f"Analyzed only in {letter}: {plural(len(unmatched), 'layer')}: {listed}"]
    lines += ["", f"Created by {code_html(comparison_command(comparison), 2000)}.", ""]
    heads = ["layer", *(f"α {letter}" for letter in letters), *distance_heads(comparison)]
    distances = choose_distance_columns(comparison)
    rows = [
        [code_html(layer.name), *alpha_cells(layer), *distance_cells(distances, layer)] for layer in comparison.layers
    ]
    return _append_table("\n".join(lines), plural(len(rows), "matched layer"), heads, rows)


def escape(text: object, longest: int = 600) -> str:
    """Escape text so that Markdown shows it literally, without links for @names, #numbers or URLs."""
    shown = _escape_markup(printable(text, longest))
    for live, dead in LINK_BREAKERS.items():
        shown = shown.replace(live, dead)
    return shown


def code_html(name: object, longest: int = 200) -> str:
    """Format an untrusted name as inline code that cannot mention users or become a link."""
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
            lines.append(f"- {title}: {escape(findings[0].message, MAX_MESSAGE_CHARS)}")
        elif findings[0].severity == "info":
            lines.append(f"- {title}: {plural(len(findings), 'layer')}")
        else:
            lines.append(f"- {title}: {plural(len(findings), 'layer')}")
            listed = findings[:MAX_LISTED_LAYERS]
            messages, advice = split_common_ending([f.message for f in listed])
            lines[-1] += f". {escape(advice, MAX_MESSAGE_CHARS)}" if advice else ""
            lines += [
                f"  - {code_html(f.where)}: {escape(message, MAX_MESSAGE_CHARS)}"
                for f, message in zip(listed, messages, strict=True)
            ]
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
    """Format a table; rows that do not fit into ``room`` characters are only counted."""
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
    return [*lines, "", f"… and {omitted:,} more rows; use --format csv to list all of them."] if omitted else lines
