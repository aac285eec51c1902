"""Text for a terminal, a table cell or an error message: escaped names, short forms, numbers with their format."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[^\W\d_a-z])")  # before a capital letter

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
    """The text with its middle replaced by … where it is too long, because names differ at both ends."""
    if len(text) <= max_chars:
        return text
    tail = (max_chars - 1) * 2 // 3
    return f"{text[: max_chars - 1 - tail]}…{text[len(text) - tail :]}"


def truncate(text: str, max_chars: int) -> str:
    """The text, cut at the end and followed by … where it is too long."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def split_common_ending(texts: Sequence[str]) -> tuple[list[str], str]:
    """Take the last sentences that all texts share out of them: (what each text has of its own, what they share).

    Each text keeps at least one sentence.
    """
    sentences = [SENTENCE_END.split(text) for text in texts]
    longest = min((len(own) - 1 for own in sentences), default=0) if len(texts) > 1 else 0
    count = 0
    while count < longest and len({own[-1 - count] for own in sentences}) == 1:
        count += 1
    ending = " ".join(sentences[0][len(sentences[0]) - count :]) if count else ""
    return [" ".join(own[: len(own) - count]) for own in sentences], ending


def short_target(target: object) -> str:
    """The name of a model without its folder; for a folder, its name and its parent's."""
    parts = str(target).rstrip("/").split("/")
    return "/".join(parts[-1:] if "." in parts[-1] else parts[-2:]) or "model"


def plural(count: int, word: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def format_alpha(value: object, doubtful: bool) -> str:
    """An exponent; a ? marks one that is too uncertain for a verdict."""
    return format_number(value, ".2f") + ("?" if doubtful else "")


def join_letters(letters: Sequence[str]) -> str:
    """``A``, ``A and B``, ``A, B and C``; for more than six, the first three and the number of models."""
    if len(letters) > 6:
        return f"{', '.join(letters[:3])}, … ({len(letters)} models)"
    return letters[0] if len(letters) == 1 else f"{', '.join(letters[:-1])} and {letters[-1]}"


def format_percent(share: float) -> str:
    """A share as a percentage with up to six digits."""
    return f"{100 * share:.6g} %"


def format_number(value: object, fmt: str) -> str:
    """A value in its metric's format; "–" where there is none."""
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
    """The last parts of paths, as many as make them different; equal paths are numbered."""
    parts = [name.rstrip("/").split("/") for name in names]
    for depth in range(1, max(map(len, parts)) + 1):
        suffixes = ["/".join(p[-depth:]) for p in parts]
        if len(set(suffixes)) == len(set(names)):
            break
    return [
        f"{name} ({suffixes[: i + 1].count(name)})" if suffixes.count(name) > 1 else name
        for i, name in enumerate(suffixes)
    ]
