"""A report, or a comparison, as Markdown that fits into a pull-request comment.

Names stand in ``<code>``, escaped: nobody is mentioned, nothing is linked, no markup of a stranger comes through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from layerscope import registry
from layerscope.report import Comparison, Report
from layerscope.views import frame, table, verdict
from layerscope.views.command import command, command_of
from layerscope.views.comparison import SHOWN
from layerscope.views.text import number, plural, printable

COLUMNS = ("layer_id", "name", "verdicts", "alpha", "alpha_low", "alpha_high", "log_spectral_norm", "stable_rank",
           "phase", "N", "M", "num_evals")  # fmt: skip
LONGEST = 60_000  # characters; GitHub takes 65,536 in a comment
LISTED = 10  # layers named below one verdict
NAMES = ("name", "target")  # columns whose cells are strangers' names
LINKS = {
    "@": "@<!-- -->",
    "\\#": "\\#<!-- -->",
    "://": ":<!-- -->//",
    "www.": "www<!-- -->.",
}  # that GitHub makes itself
SIGNS = {"error": "🔴", "warn": "🟠", "info": "🔵", "": "🟢"}


def to_markdown(report: Report, columns: Sequence[str] = ()) -> str:
    """The verdict in three sentences, the findings, how sure, and the layers to unfold; of a description its table."""
    described = all(row.spectrum is None and not row.metrics and not row.failed for row in report.rows)
    names = list(columns) or list(COLUMNS)
    rows = [_cells(row, names) for row in frame.rows(report) if described or not row["skipped"]]
    if described:
        return "\n".join([f"### layerscope: {code(report.meta['target'])}", "", *_table(names, rows, LONGEST)]) + "\n"
    first, *others = verdict.sentences(report)
    sign = SIGNS["error" if any(row.failed for row in report.rows) else verdict.gravity(report.findings)]
    lines = [f"### {sign} layerscope: {code(report.meta['target'])}", "", f"**{escape(first)}**"]
    lines += [escape(line) for line in others]
    lines += _findings(report)
    lines += [f"- failed: {code(row.name)}: {escape(row.skipped)}" for row in report.rows if row.failed][:LISTED]
    lines += ["", "<details><summary>How sure</summary>", "", *(f"- {escape(x)}" for x in verdict.certainty(report))]
    lines += [f"- made by {code(command(report), 2000)}, layerscope {escape(report.meta.get('layerscope', '?'))}"]
    lines += ["", "</details>", ""]
    return _with_table("\n".join(lines), plural(len(rows), "layer"), names, rows)


def comparison_to_markdown(comparison: Comparison) -> str:
    """The reading with its warnings, medians side by side, and the layers to unfold."""
    letters, names = comparison.letters, comparison.names
    lines = ["### layerscope: " + " against ".join(code(name) for name in names), ""]
    lines += [f"- {letter}: {code(name)}" for letter, name in zip(letters, names, strict=True)]
    lines += ["", *(f"- {escape(line)}" for line in comparison.reading)]
    lines += [f"- ⚠️ **{escape(line)}**" for line in comparison.warnings]
    head, *medians = table.medians(comparison.reports, letters)
    lines += ["", *_table(head, [[escape(cell) for cell in row] for row in medians], LONGEST)]
    lines += ["", f"Made by {code(command_of(comparison), 2000)}.", ""]
    heads = ["layer", *(f"α {letter}" for letter in letters), *(label for _, label, _ in SHOWN)]
    rows = []
    for layer in comparison.layers:
        last = layer.distances[-1] if layer.distances else {}
        alphas = [number(m.get("alpha"), ".2f") for m in layer.metrics]
        rows.append([code(layer.name), *alphas, *(number(last.get(name), fmt) for name, _, fmt in SHOWN)])
    return _with_table("\n".join(lines), plural(len(rows), "matched layer"), heads, rows)


def escape(text: object) -> str:
    """Text that Markdown and the HTML it becomes show as it is; @names, #numbers and addresses stay dead."""
    shown = _escaped(printable(text, 600))
    for live, dead in LINKS.items():
        shown = shown.replace(live, dead)
    return shown


def code(name: object, longest: int = 200) -> str:
    """A stranger's name, in which nobody is mentioned and nothing becomes a link."""
    return f"<code>{_escaped(printable(name, longest))}</code>"


def _escaped(shown: str) -> str:
    for c in "\\`*_[]|#~":
        shown = shown.replace(c, "\\" + c)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _findings(report: Report) -> list[str]:
    lines = []
    for key, found in verdict.by_code(report.findings).items():
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


def _cells(row: dict[str, object], names: Sequence[str]) -> list[str]:
    plugins = registry.plugins("metrics")
    cells = []
    for name in names:
        value, fmt = row[name], str(plugins[name].meta["fmt"]) if name in plugins else ".2f" if name == "Q" else "s"
        if name in NAMES:
            cells.append(code(value))
        else:
            cells.append(escape("×".join(map(str, value)) if isinstance(value, list) else number(value, fmt)))
    return cells


def _with_table(text: str, what: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return text
    lines = _table(heads, rows, LONGEST - len(text))
    return "\n".join([text, f"<details><summary>{what}</summary>", "", *lines, "", "</details>", ""])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], room: int) -> list[str]:
    """A table; rows beyond the room are counted."""
    lines = ["| " + " | ".join(escape(head) for head in heads) + " |", "|" + " --- |" * len(heads)]
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
