"""The outcome of an experiment as text: its tables beside the published numbers, and what reproduced."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as Shown

from layerscope.text import printable

if TYPE_CHECKING:
    from layerscope.experiments.outcome import Outcome, Table

WIDTH = 100


def outcome(found: Outcome, width: int = WIDTH) -> str:
    """Tables, then a line per claim: + where it holds, – where it does not."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for each in found.tables:
        console.print(table(each))
        console.print()
    held = f"{sum(c.holds for c in found.claims)} of {len(found.claims)} claims hold"
    head = f"{found.name} on {printable(found.data, 120)}, seed {found.seed}: {held} ({found.seconds:.0f} s)"
    console.print(head, markup=False, highlight=False)
    for claim in found.claims:
        line = f"  {'+' if claim.holds else '–'} {claim.figure}: {claim.says}: {printable(claim.measured, 300)}"
        console.print(line, markup=False, highlight=False)
    file: Any = console.file
    return str(file.getvalue()).rstrip()


def table(found: Table) -> Shown:
    """Numbers beside those that were published."""
    shown = Shown(box=None, pad_edge=False, title=found.title, title_justify="left", title_style="")
    for column in found.columns:
        shown.add_column(column, justify="right")
    for row in found.rows:
        shown.add_row(*(cell(value) for value in row))
    return shown


def cell(value: Any) -> str:
    """A number in four digits; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value), 60)
