"""A merge check as text, as plain JSON types, and in sentences."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.text import Text

from layerscope.persistence.plain_json import plain
from layerscope.records.merge_check import MergeCheck, TaskVectors
from layerscope.text import plural, printable
from layerscope.views import aligned_columns, table
from layerscope.views.aligned_columns import Cell
from layerscope.views.diff_summary import percent

MAX_UNFIT = 5
MAX_LOSS_ROWS = 20


def merge_sentences(check: MergeCheck) -> list[str]:
    """Describe how the updates relate, and what weights cannot tell."""
    whole, count = check.whole, len(check.names)
    cosines = [whole.cosines[i][j] for i in range(count) for j in range(i)]
    known = [value for value in cosines if value is not None]
    sentences = [f"{plural(check.compared, 'tensor')} of {count} models and their base were compared."]
    if known:
        span = f"{min(known):.2f}" if len(known) == 1 else f"{min(known):.2f} to {max(known):.2f}"
        conflict = "" if whole.conflicts is None else f", {100 * whole.conflicts:.0f} % of the shared entries conflict"
        sentences.append(f"The cosine of the updates is {span} (independent fine-tunes: near 0){conflict}.")
    if whole.interference is not None:
        orthogonal = 1 / count**0.5
        sentences.append(
            f"Of the updates' norms, {100 * whole.interference:.0f} % remain in their mean (orthogonal updates: "
            f"{100 * orthogonal:.0f} %)."
        )
    if check.losses:
        sentences.append("The losses below decide: use the mean only if it is good enough on the data of every task.")
    else:
        sentences.append(
            "Weights tell roughly how far the mean is from its parts, not whether it is better: evaluate it "
            "(--model M:NET --data M:TEST)."
        )
    return sentences


def merge_text(check: MergeCheck) -> str:
    """Return the text that a terminal shows."""
    return table.capture_text(lambda console: print_merge(check, console))


def print_merge(check: MergeCheck, console: Console) -> None:
    """Print sentences, the cosines, a line per block, the losses, the findings and what does not fit."""
    console.print(Text(f"Merging {plural(len(check.names), 'model')} of {printable(check.base, 120)}", style="bold"))
    for sentence in merge_sentences(check):
        console.print(Text(sentence))
    console.print()
    _print_cosines(check, console)
    console.print()
    _print_groups(check, console)
    if check.losses:
        console.print()
        _print_losses(check, console)
    for finding in check.findings:
        console.print(Text.assemble("\n", (f"{finding.code} {finding.title}", table.STYLES[finding.severity])))
        console.print(Text(f"  {printable(finding.message, 800)}"))
    if check.unfit:
        console.print(Text(f"\nDoes not fit ({len(check.unfit):,}):"))
        for line in check.unfit[:MAX_UNFIT]:
            console.print(Text(f"  {printable(line, 160)}", style="dim"))


def _print_cosines(check: MergeCheck, console: Console) -> None:
    letters = [chr(ord("A") + i) for i in range(len(check.names))]
    heads = ["", "model", "change", *letters]
    rows = []
    for i, name in enumerate(check.names):
        cosines = ["–" if value is None else f"{value:.2f}" for value in check.whole.cosines[i]]
        change = percent(check.whole.relative[i])
        rows.append([Cell(text) for text in (letters[i], printable(name, 40), change, *cosines)])
    aligned_columns.print_rows(console, heads, rows, {0, 1}, {0})


def _print_groups(check: MergeCheck, console: Console) -> None:
    heads = ["", "largest change", "cosine", "conflicts", "remains"]
    rows = [[Cell(text) for text in _group_cells(group)] for group in (check.whole, *check.blocks)]
    aligned_columns.print_rows(console, heads, rows, {0}, {0})


def _group_cells(group: TaskVectors) -> list[str]:
    count = len(group.norms)
    known = [value for i in range(count) for j in range(i) if (value := group.cosines[i][j]) is not None]
    return [
        group.name,
        percent(max(group.relative)),
        f"{sum(known) / len(known):.2f}" if known else "–",
        "–" if group.conflicts is None else f"{100 * group.conflicts:.0f} %",
        "–" if group.interference is None else f"{100 * group.interference:.0f} %",
    ]


def _print_losses(check: MergeCheck, console: Console) -> None:
    metrics = list(next(iter(check.losses.values())))
    rows = [
        [Cell(printable(name, 40)), *(Cell(f"{values.get(metric, float('nan')):.4g}") for metric in metrics)]
        for name, values in list(check.losses.items())[:MAX_LOSS_ROWS]
    ]
    aligned_columns.print_rows(console, ["", *metrics], rows, {0}, {0})


def to_dict(check: MergeCheck) -> dict[str, Any]:
    """Return a merge check as plain JSON types."""
    result: dict[str, Any] = plain(check)
    return {"kind": "merge check", "sentences": merge_sentences(check), **result}


def to_json(check: MergeCheck) -> str:
    """Return a merge check as JSON text."""
    return json.dumps(to_dict(check), indent=2, ensure_ascii=False) + "\n"
