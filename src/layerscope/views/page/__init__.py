"""A report, or a comparison, as one HTML page that needs nothing else: no network, no server, no other file.

Everything from a model is a stranger's: it reaches the page through the template's escaping or as JSON that a script
turns into text nodes. The page's policy lets only its own script and style run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.history import History
from layerscope.report import Comparison, Report
from layerscope.views.files import check_writable, write_whole
from layerscope.views.plots import Target, _style, last_of

if TYPE_CHECKING:
    from layerscope.views.page._landscape import Found

TEMPLATES = Path(__file__).parent.parent / "templates"
DARK = {  # of the page itself; the light ones are in the style sheet
    "page": _style.GROUND.dark, "card": "#1b1f26", "line": "#3a414b", "soft": "#262b33", "text": "#e6e9ee",
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
    from layerscope.views.page import _comparison, _experiment, _landscape, _report

    if isinstance(found, Report):
        return _report.page(found)
    if isinstance(found, Comparison):
        return _comparison.page(found)
    if isinstance(found, Sequence) and isinstance(found[0], History):
        runs = [run for run in found if isinstance(run, History)]
        last = last_of(runs)
        return _comparison.page(last, runs) if isinstance(last, Comparison) else _report.page(last, runs)
    if hasattr(found, "claims"):
        return _experiment.page(found)
    return _landscape.page(found)  # type: ignore[arg-type]


def packed(lines: Iterable[Mapping[str, Any]]) -> str:
    """JSON objects, one per line, gzipped and in base 64: what the page unpacks when it is opened."""
    text = "\n".join(json.dumps(x, allow_nan=False, ensure_ascii=False, separators=(",", ":")) for x in lines)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)).decode("ascii")


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    return environment.get_template("page.html.j2")


@cache
def _stylesheet() -> str:
    """The style sheet with the colours of every tone put in."""
    tones = [*_style.TONES, *(_style.series(i) for i in range(len(_style.SERIES)))]
    light, dark = (
        "".join(f"--t-{tone}:{_style.colour(tone, dark=night)};" for tone in tones)
        + f"--grid:{_style.GRID.dark if night else _style.GRID.light};"
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


@cache
def _text(name: str) -> str:
    return (TEMPLATES / name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
