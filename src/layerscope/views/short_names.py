"""Names of layers in little space: common words are left out once, then whole words in the middle.

Letters inside a word go only where a single word is longer than the space.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from layerscope.text import elide

WORDS = re.compile(r"[./]")
FINER_WORDS = re.compile(r"[./_]")
GAP = "…"
MAX_WORDS = 24  # of a name that are looked at
SUFFIX = ".weight"


class ShortNames(NamedTuple):
    """Names that fit, and a sentence that says what was left out of all of them ("" where nothing was)."""

    names: list[str]
    caption: str = ""


def short_names(names: Sequence[str], max_chars: int) -> ShortNames:
    """The names in at most ``max_chars`` characters, each different from the others if they were.

    First ``.weight`` and the leading words that all names share are left out, then words of single names, shown as ….
    ``encoder.layer.0.attention.output.dense.weight`` in 20 characters is ``…0…output.dense``.
    """
    if all(len(name) <= max_chars for name in names):
        return ShortNames(list(names))
    prefix = shared_prefix(names)
    shorter = [name[len(prefix) :] for name in names]
    without_suffix = [name.removesuffix(SUFFIX) for name in shorter]
    suffix = ""
    if len(set(without_suffix)) == len(set(shorter)) and without_suffix != shorter:
        shorter, suffix = without_suffix, SUFFIX
    left_out = " and ".join(f"“{part}”" for part in (prefix, suffix) if part)
    captions = [f"Names are shown without {left_out}."] if left_out else []
    common = "" if all(len(name) <= max_chars for name in shorter) else common_beginning(shorter)
    if common:
        shorter = [GAP + name[len(common) :] if name.startswith(common) else name for name in shorter]
        captions.append(f"“{common}” is shown as {GAP}")
    fitted = _leave_out_words(shorter, max_chars)
    if fitted != shorter:
        captions.append(f"{GAP} stands for words left out of a name.")
    return ShortNames(fitted, " ".join(captions))


def shared_prefix(names: Sequence[str]) -> str:
    """The leading words, with their separator, that all of at least two different names share."""
    if len(set(names)) < 2:
        return ""
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    ends = [match.end() for match in WORDS.finditer(first[:length])]
    return first[: ends[-1]] if ends else ""


def common_beginning(names: Sequence[str]) -> str:
    """The leading words, without numbers, that take most space in the names and that at least half of them share."""
    counts: Counter[str] = Counter()
    for name in set(names):
        ends = [match.end() for match in WORDS.finditer(name.partition("[")[0])]
        counts.update(name[:end] for end in ends[:MAX_WORDS] if not any(c.isdecimal() for c in name[:end]))
    worthwhile = [prefix for prefix, count in counts.items() if count >= max(2, len(names) / 2)]
    return max(worthwhile, key=lambda prefix: (len(prefix) - 1) * counts[prefix], default="")


def _leave_out_words(names: Sequence[str], max_chars: int) -> list[str]:
    """Each name in the longest form that fits and that no other name has."""
    used = Counter(name for name in set(names) if len(name) <= max_chars)
    form_by_name: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if len(name) > max_chars:
            whole = [_first_form(name, separators, max_chars, used) for separators in (WORDS, FINER_WORDS)]
            cut = [form for form in _cut_forms(name, max_chars) if form not in used]
            form_by_name[name] = max(filter(None, whole), key=len, default="") or (cut or [elide(name, max_chars)])[0]
            used[form_by_name[name]] += 1
    return [form_by_name.get(name, name) for name in names]


def _first_form(name: str, separators: re.Pattern[str], max_chars: int, used: Mapping[str, int]) -> str:
    """The first form of whole words that fits and that no other name has, or ""."""
    fitting = (form for form in _word_forms(name, separators) if len(form) <= max_chars and form not in used)
    return next(fitting, "")


def _word_forms(name: str, separators: re.Pattern[str]) -> Iterator[str]:
    """Shorter forms of a name: without leading words, without words after the number, without the first numbers."""
    words = _split(name, separators)
    numbers = [i for i, word in enumerate(words[:-1]) if any(c.isdecimal() for c in word)]
    others = [i for i in range(len(words) - 1) if i not in numbers]
    for order in (others, others[::-1]):
        for count in range(1, len(order) + 1):
            yield _join(words, set(order[:count]))
    for count in range(1, len(numbers)):  # of a deep name the last number stays
        yield _join(words, {*others, *numbers[:count]})


def _cut_forms(name: str, max_chars: int) -> list[str]:
    """Forms that cut a word, for names of which no whole word fits."""
    return [elide(name, max_chars), f"{GAP}{name[1 - max_chars :]}"]


def _split(name: str, separators: re.Pattern[str]) -> list[str]:
    """The words of a name, each with the separator after it; a part in brackets stays with the last word."""
    head, bracket, part = name.partition("[")
    ends = [match.end() for match in separators.finditer(head)]
    words = [head[start:end] for start, end in zip([0, *ends], [*ends, len(head)], strict=True)]
    words[-1] += bracket + part
    return words


def _join(words: Sequence[str], left_out: set[int]) -> str:
    text = ""
    for i, word in enumerate(words):
        if i not in left_out:
            text += word
        elif not text.endswith(GAP):
            text = text.rstrip("./_") + GAP  # the separators beside it say nothing
    return text
