"""Rows of short cells in aligned columns: quick for hundreds of thousands of rows, colored on a terminal.

A table that is too wide first has its texts shortened, then goes on below itself, each time with its first columns:
numbers are never cut and every row keeps its label.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

ShortenColumn = Callable[[Sequence[str], int], tuple[list[str], str]]  # (cells, width) → cells that fit, and a caption


class Cell(NamedTuple):
    """What one cell shows, and how."""

    text: str
    style: str = ""


class Step(NamedTuple):
    """How one column gives way where a table is too wide."""

    column: int
    shorten: ShortenColumn
    least: int  # width in characters below which it gives no further


def column_widths(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[int]:
    """Terminal columns that each column needs."""
    return [max([cell_len(head), *(cell_len(row[i].text) for row in rows)]) for i, head in enumerate(heads)]


def fit_columns(heads: Sequence[str], rows: list[list[Cell]], width: int, steps: Sequence[Step]) -> list[str]:
    """Shorten columns in turn until the rows fit or nothing gives way; returns the captions of what was done."""
    captions: dict[int, str] = {}
    originals = {step.column: [row[step.column].text for row in rows] for step in steps}
    for column, shorten, least in steps:
        widths = column_widths(heads, rows)
        excess = sum(widths) + len(widths) - 1 - width
        if excess <= 0:
            break
        room = max(min(least, widths[column]), widths[column] - excess)
        texts, captions[column] = shorten(originals[column], room)
        for row, text in zip(rows, texts, strict=True):
            row[column] = Cell(text, row[column].style)
    return [caption for caption in captions.values() if caption]


def is_too_wide(heads: Sequence[str], rows: Sequence[Sequence[Cell]], width: int) -> bool:
    """Does a row need more terminal columns than there are?"""
    widths = column_widths(heads, rows)
    return sum(widths) + len(widths) - 1 > width


def print_rows(
    console: Console,
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    left: Collection[int],
    labels: Collection[int] = (0,),
) -> None:
    """Print the heads and the rows; where they are too wide, in blocks of columns that each begin with ``labels``."""
    widths = column_widths(heads, rows)
    for number, block in enumerate(_blocks(widths, labels, console.width)):
        if number:
            console.file.write("\n")
        _print_block(console, heads, rows, left, widths, block)


def _blocks(widths: Sequence[int], labels: Collection[int], width: int) -> Iterator[list[int]]:
    """The columns of each block; a column that fits in no block has one of its own."""
    label_columns = sorted(labels)
    label_width = sum(widths[i] + 1 for i in label_columns)
    block: list[int] = []
    used = label_width
    for column in (i for i in range(len(widths)) if i not in labels):
        if block and used + widths[column] > width:
            yield sorted([*label_columns, *block])
            block, used = [], label_width
        block.append(column)
        used += widths[column] + 1
    yield sorted([*label_columns, *block])


def _print_block(
    console: Console,
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    left: Collection[int],
    widths: Sequence[int],
    block: Sequence[int],
) -> None:
    plain = console.color_system is None
    for i, cells in enumerate([[Cell(head, "bold") for head in heads], *rows]):
        padded = [_pad(cells[j].text, widths[j], j in left) for j in block]
        if plain:
            console.file.write(" ".join(padded).rstrip() + "\n")
            continue
        line = Text(no_wrap=True, overflow="ignore")
        for position, j in enumerate(block):
            line.append(" " if position else "").append(padded[position], style=cells[j].style or None)
        console.print(line, style="bold" if i == 0 else None, crop=False)


def _pad(text: str, width: int, left: bool) -> str:
    space = " " * (width - cell_len(text))
    return text + space if left else space + text
