"""Write a result as one HTML page that needs no network, no server and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.persistence.atomic_files import check_writable, write_whole
from layerscope.records.comparison import Comparison
from layerscope.records.history import History
from layerscope.records.report import Report
from layerscope.views.page.escaping import _hash, _template, _text, packed
from layerscope.views.plots import style
from layerscope.views.plots.pictures import Target, last_of

if TYPE_CHECKING:
    from layerscope.views.page.landscape_page import Found


DARK = {  # of the page itself; the light ones are in the style sheet
    "page": style.GROUND.dark, "card": "#1b1f26", "line": "#3a414b", "soft": "#262b33", "text": "#e6e9ee",
    "faint": "#a3abb6", "link": "#6cb6ff", "mark": "#4a3f12", "cell-none": "#262b33",
}  # fmt: skip


def write(found: Target | Found | Any, path: str | Path) -> None:
    """Write the page; it appears whole or not at all.

    :raises OutputError: it cannot be written there.
    """
    check_writable(path)
    write_whole(path, render(found).encode("utf-8", "backslashreplace"))


def render(found: Target | Found | Any) -> str:
    """The page as text; of runs, that of their last reports, with the way to them."""
    from markupsafe import Markup

    page, lines = _content(found)
    script, style = _text("charts.js") + _text("page.js"), _stylesheet()
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"script-src '{_hash(script)}'; style-src '{_hash(style)}'"
    )
    text: str = _template().render(
        page=page, policy=policy, script=Markup(script), style=Markup(style), data=Markup(packed(lines))
    )
    return text


def _content(found: Target | Found | Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(what the template shows, lines of data) of whatever has a page."""
    from layerscope.views.page import comparison_page, experiment_page, landscape_page, report_page

    if isinstance(found, Report):
        return report_page.page(found)
    if isinstance(found, Comparison):
        return comparison_page.page(found)
    if isinstance(found, Sequence) and isinstance(found[0], History):
        runs = [run for run in found if isinstance(run, History)]
        last = last_of(runs)
        return comparison_page.page(last, runs) if isinstance(last, Comparison) else report_page.page(last, runs)
    if hasattr(found, "claims"):
        return experiment_page.page(found)
    return landscape_page.page(found)  # type: ignore[arg-type]


@cache
def _stylesheet() -> str:
    """The style sheet with the colours of every tone put in."""
    tones = [*style.TONES, *(style.series(i) for i in range(len(style.SERIES)))]
    light, dark = (
        "".join(f"--t-{tone}:{style.colour(tone, dark=night)};" for tone in tones)
        + f"--grid:{style.GRID.dark if night else style.GRID.light};"
        + f"--t-over-text:{'#ff9550' if night else '#a84700'};"
        for night in (False, True)
    )
    values = {
        "{{ light }}": light,
        "{{ dark }}": dark,
        "{{ dark_page }}": "color-scheme: dark;" + "".join(f"--{name}:{value};" for name, value in DARK.items()),
        "{{ tones }}": "".join(f".t-{tone}{{--c:var(--t-{tone})}}" for tone in tones),
    }
    text = _text("style.css")
    for name, value in values.items():
        text = text.replace(name, value)
    return text
