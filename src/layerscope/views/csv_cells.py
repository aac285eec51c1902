"""Cells of CSV that no spreadsheet runs as a formula, and how they are read back."""

from __future__ import annotations

import csv
import io
import re

FORMULA = re.compile(r"'*[=+\-@\t\r]")  # a text with which spreadsheets begin a formula, perhaps after quotes
QUOTED_FORMULA = re.compile(r"'+[=+\-@\t\r]")


def protect(text: str) -> str:
    """Return a text with a quote in front if a spreadsheet would run it; :func:`unprotect` removes the quote."""
    return f"'{text}" if FORMULA.match(text) else text


def unprotect(text: str) -> str:
    """Return the text that :func:`protect` was given."""
    return text[1:] if QUOTED_FORMULA.match(text) else text


def read_csv(text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV of layerscope, as text by column."""
    heads, *rows = csv.reader(io.StringIO(text))
    names = [unprotect(head) for head in heads]
    return [dict(zip(names, map(unprotect, row), strict=True)) for row in rows]
