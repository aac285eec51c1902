"""Names from strangers, made fit for a terminal, a table cell or an error message."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

INVISIBLE_CATEGORIES = {
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
}  # control, format (bidi marks), surrogates, unassigned, separators


def printable(text: object, max_chars: int = 200) -> str:
    """The text with every control, bidirectional and unassigned character escaped, at most ``max_chars`` long."""
    shown = str(text)[: 4 * max_chars]
    if not shown.isprintable():
        shown = "".join(
            character if unicodedata.category(character) not in INVISIBLE_CATEGORIES else _escape_character(character)
            for character in shown
        )
    return elide(shown, max_chars)


def elide(text: str, max_chars: int) -> str:
    """The text with its middle replaced by … where it is too long: names differ at both ends."""
    if len(text) <= max_chars:
        return text
    tail = (max_chars - 1) * 2 // 3
    return f"{text[: max_chars - 1 - tail]}…{text[len(text) - tail :]}"


def truncate(text: str, max_chars: int) -> str:
    """The beginning of a text that is too long, and …."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def abbreviate(name: str, max_chars: int) -> str:
    """A dotted name that fits: ``.weight`` goes first, then the words before the last shrink, numbers kept.

    ``encoder.layer.0.attention.output.dense.weight`` → ``enc.lay.0.att.out.dense``.
    """
    if len(name) <= max_chars:
        return name
    name = name.removesuffix(".weight")
    words = name.split(".")
    for keep in (len(name), 4, 3, 2, 1):
        shortened = ".".join([*(_shorten_word(word, keep) for word in words[:-1]), words[-1]])
        if len(shortened) <= max_chars:
            return shortened
    return elide(shortened, max_chars)


def _shorten_word(word: str, letters: int) -> str:
    digits = word[len(word.rstrip("0123456789")) :]
    return word if len(word) <= letters + len(digits) else word[:letters] + digits


def short_target(target: object) -> str:
    """A target without the folders that it lies in; of a folder's own name the last two parts."""
    parts = str(target).rstrip("/").split("/")
    return "/".join(parts[-1:] if "." in parts[-1] else parts[-2:]) or "model"


def plural(count: int, word: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def format_alpha(value: object, doubtful: bool) -> str:
    """An exponent; ? marks one that carries no verdict."""
    return format_number(value, ".2f") + ("?" if doubtful else "")


def join_letters(letters: Sequence[str]) -> str:
    """``A``, ``A and B``, ``A, B and C``; of more than six the first and how many."""
    if len(letters) > 6:
        return f"{', '.join(letters[:3])}, … ({len(letters)} models)"
    return letters[0] if len(letters) == 1 else f"{', '.join(letters[:-1])} and {letters[-1]}"


def format_percent(share: float) -> str:
    """A share, with as many digits as it has."""
    return f"{100 * share:.6g} %"


def format_number(value: object, fmt: str) -> str:
    """A value in its metric's format; "–" for what is absent."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if fmt in ("s", "d"):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return format(value, fmt)


def _escape_character(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def distinct_paths(names: Sequence[str]) -> list[str]:
    """The last parts of paths, as many as tell them apart; equal ones are numbered."""
    parts = [name.rstrip("/").split("/") for name in names]
    for depth in range(1, max(map(len, parts)) + 1):
        suffixes = ["/".join(p[-depth:]) for p in parts]
        if len(set(suffixes)) == len(set(names)):
            break
    return [
        f"{name} ({suffixes[: i + 1].count(name)})" if suffixes.count(name) > 1 else name
        for i, name in enumerate(suffixes)
    ]
