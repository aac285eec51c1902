"""A diff on a terminal: three sentences, a summary by role, the tensors that changed most, and the findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.text import Text

from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.rules.model_changes import Changes, block, role
from layerscope.text import plural, printable
from layerscope.views import aligned_columns, table
from layerscope.views.aligned_columns import Cell, Step
from layerscope.views.diff_summary import diff_sentences, percent
from layerscope.views.short_names import short_names

SORTS = ("change", "model", "rank", "intruders")  # orders of the list of tensors
MIN_NAME_CHARS = 18


def print_diff(report: Report, console: Console, *, top: int = 10, sort: str = "change") -> None:
    """Print a diff.

    :param top: number of tensors that are listed.
    :param sort: order of the list, one of :data:`SORTS`.
    """
    pair, changes = report.meta["diff"], Changes(report.rows)
    title = f"{printable(pair['tuned'], 200)} against {printable(pair['base'], 200)}"
    console.print(Text(title, style="bold"))
    for sentence in diff_sentences(report):
        console.print(Text(sentence))
    if changes.changed:
        console.print()
        _print_roles(changes, console)
        console.print()
        _print_tensors(changes, console, top, sort)
    losses = pair.get("losses")
    if losses:
        console.print()
        _print_losses(losses, console)
    for line in table.finding_lines(report, console.width):
        console.print(line)


def _print_losses(losses: Mapping[str, Any], console: Console) -> None:
    """Print the loss on every data set: base, tuned, their difference, and the effect of putting back each block."""
    heads = ["loss", *(printable(data, 30) for data in losses)]
    rows = [
        [Cell(name), *(Cell(f"{result[name]['loss']:.4g}") for result in losses.values())] for name in ("base", "tuned")
    ]
    rows.append([Cell("change"), *(Cell(_format_difference(result["change"])) for result in losses.values())])
    for label in next(iter(losses.values())).get("blocks", {}):
        cells = [Cell(_format_difference(result["blocks"][label])) for result in losses.values()]
        rows.append([Cell(f"{label} put back"), *cells])
    aligned_columns.print_rows(console, heads, rows, {0}, {0})


def _format_difference(difference: Mapping[str, float | None]) -> str:
    error = difference["error"]
    return f"{difference['loss']:+.3g}" + (f" ± {error:.2g}" if error is not None else "")


def print_overview(reports: Sequence[Report], console: Console) -> None:
    """Print several models against one base side by side: the median change of each role, in the order given."""
    all_changes = [Changes(report.rows) for report in reports]
    letters = [chr(ord("A") + i) for i in range(len(reports))]
    for letter, report in zip(letters, reports, strict=True):
        console.print(Text.assemble((letter, "bold"), f"  {printable(report.meta['diff']['tuned'], 200)}"))
    console.print()
    roles = list(dict.fromkeys(name for changes in all_changes for name in changes.by_role()))
    rows = [[Cell("tensors changed"), *(Cell(str(len(changes.changed))) for changes in all_changes)]]
    for name in roles:
        groups = [changes.by_role().get(name, []) for changes in all_changes]
        pairs = zip(all_changes, groups, strict=True)
        medians = [format_change(changes.usual_change(group)) if group else "–" for changes, group in pairs]
        rows.append([Cell(name), *map(Cell, medians)])
    options = [report.meta["diff"] for report in reports]
    if all("cosines" in pair for pair in options):
        rows.append([Cell("step from the one before"), *(Cell(format_change(pair["step"])) for pair in options)])
        for j, letter in enumerate(letters):
            cosines = [pair["cosines"][j] for pair in options]
            cells = ["–" if value is None else f"{value:.2f}" for value in cosines]
            rows.append([Cell(f"cosine with the update of {letter}"), *map(Cell, cells)])
    aligned_columns.print_rows(console, ["median change", *letters], rows, {0}, {0})


def sorted_changes(changes: Changes, sort: str) -> list[LayerReport]:
    """Return the changed tensors in the given order; largest first, or in the order of the model."""
    rows = list(changes.changed)
    if sort == "model":
        return rows
    fact = {"change": "relative_change", "rank": "rank_95", "intruders": "intruders"}[sort]
    return sorted(rows, key=lambda row: -(changes.number(row, fact) or 0.0))


def _print_roles(changes: Changes, console: Console) -> None:
    totals: dict[str, int] = defaultdict(int)
    for row in changes.compared:
        totals[role(row)] += 1
    heads = ["role", "tensors", "changed", "median change", "largest", "blocks", "rank 95"]
    cells = []
    for name, rows in changes.by_role().items():
        values = [changes.number(row, "relative_change") or 0.0 for row in rows]
        ranks = [rank for row in rows if (rank := changes.number(row, "rank_95"))]
        cells.append(
            [Cell(name), Cell(str(totals[name])), Cell(str(len(rows))), Cell(format_change(median(values))),
             Cell(format_change(max(values))), Cell(_describe_blocks(rows)),
             Cell(f"{median(ranks):.0f}" if ranks else "–")]
        )  # fmt: skip
    aligned_columns.print_rows(console, heads, cells, {0}, {0})


def _print_tensors(changes: Changes, console: Console, top: int, sort: str) -> None:
    rows = sorted_changes(changes, sort)
    heads = ["#", "tensor", "change", "floor", "rank 95", "exact", "intruders", "overlap"]
    cells = []
    for row in rows[:top]:
        change, floor = (Cell(format_change(changes.number(row, f))) for f in ("relative_change", "rounding_floor"))
        counts = [_count(changes, row, name) for name in ("rank_95", "exact_rank", "intruders")]
        overlap = changes.number(row, "overlap_left")
        last = Cell("–" if overlap is None else f"{overlap:.2f}")
        cells.append([Cell(str(row.ref.index)), Cell(printable(row.name)), change, floor, *counts, last])
    captions = aligned_columns.fit_columns(heads, cells, console.width, [Step(1, short_names, MIN_NAME_CHARS)])
    aligned_columns.print_rows(console, heads, cells, {1}, {0, 1})
    for caption in captions:
        console.print(Text(caption, style="dim"))
    if len(rows) > top:
        console.print(Text(f"{plural(len(rows) - top, 'more tensor')} changed (--all lists them).", style="dim"))


def _count(changes: Changes, row: LayerReport, name: str) -> Cell:
    value = changes.number(row, name)
    return Cell("–" if value is None else f"{value:.0f}")


def _describe_blocks(rows: Sequence[LayerReport]) -> str:
    """Return the blocks of some tensors as ranges: 0–5, 8."""
    numbers = sorted({number for row in rows if (number := block(row)) is not None})
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    shown = [f"{part[0]}–{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts]
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "") or "–"


def format_change(value: float | None) -> str:
    """Format a relative change as a percentage: two digits below 10 %, whole numbers above."""
    return "–" if value is None else percent(value)
