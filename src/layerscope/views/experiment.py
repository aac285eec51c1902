"""Render the outcome of an experiment as text: result tables next to the published numbers, then the claims."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as Shown

from layerscope.text import printable

if TYPE_CHECKING:
    from layerscope.experiments.outcome import Outcome, Table

WIDTH = 100


def outcome_text(record: Outcome, width: int = WIDTH) -> str:
    """Render the tables and one line per claim: + if the claim holds, – if it does not."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for numbers in record.tables:
        console.print(outcome_table(numbers))
        console.print()
    claims_text = f"{sum(c.holds for c in record.claims)} of {len(record.claims)} claims hold"
    head = f"{record.name} on {printable(record.data, 120)}, seed {record.seed}: {claims_text} ({record.seconds:.0f} s)"
    console.print(head, markup=False, highlight=False)
    for claim in record.claims:
        line = f"  {'+' if claim.holds else '–'} {claim.figure}: {claim.says}: {printable(claim.measured, 300)}"
        console.print(line, markup=False, highlight=False)
    file: Any = console.file
    return str(file.getvalue()).rstrip()


def outcome_table(record: Table) -> Shown:
    """Return a table of the measured numbers next to the published ones."""
    shown = Shown(box=None, pad_edge=False, title=record.title, title_justify="left", title_style="")
    for column in record.columns:
        shown.add_column(column, justify="right")
    for row in record.rows:
        shown.add_row(*(format_cell(value) for value in row))
    return shown


def format_cell(value: Any) -> str:
    """Format a number with four significant digits; None becomes a dash."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value), 60)
