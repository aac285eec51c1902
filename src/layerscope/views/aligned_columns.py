"""Rows of short cells in aligned columns: quick for hundreds of thousands of rows, coloured on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

Shorten = Callable[[str, int], str]


class Cell(NamedTuple):
    """What one cell shows, and how."""

    text: str
    style: str = ""


def column_widths(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[int]:
    """Terminal columns that each column needs."""
    return [max([cell_len(head), *(cell_len(row[i].text) for row in rows)]) for i, head in enumerate(heads)]


def fit_columns(
    heads: Sequence[str], rows: list[list[Cell]], width: int, give_way: Sequence[tuple[int, Shorten, int]]
) -> None:
    """Shorten columns in turn until the rows fit: each of ``give_way`` is (column, how, least width)."""
    for column, shorten, least in give_way:
        widths = column_widths(heads, rows)
        over = sum(widths) + len(widths) - 1 - width
        if over <= 0:
            return
        room = max(min(least, widths[column]), widths[column] - over)
        for row in rows:
            row[column] = Cell(shorten(row[column].text, room), row[column].style)


def print_rows(console: Console, heads: Sequence[str], rows: Sequence[Sequence[Cell]], left: Collection[int]) -> None:
    """Print the heads and the rows; a line that is still too long ends in …."""
    widths = column_widths(heads, rows)
    plain = console.color_system is None
    for i, cells in enumerate([[Cell(head, "bold") for head in heads], *rows]):
        padded = [_pad(cell.text, widths[j], j in left) for j, cell in enumerate(cells)]
        if plain:
            console.file.write(_truncate_line(" ".join(padded).rstrip(), console.width) + "\n")
            continue
        line = Text(no_wrap=True, overflow="ellipsis")
        for j, (text, cell) in enumerate(zip(padded, cells, strict=True)):
            line.append(" " if j else "").append(text, style=cell.style or None)
        console.print(line, style="bold" if i == 0 else None)


def _pad(text: str, width: int, left: bool) -> str:
    space = " " * (width - cell_len(text))
    return text + space if left else space + text


def _truncate_line(line: str, width: int) -> str:
    return line if cell_len(line) <= width else set_cell_size(line, width - 1) + "…"
