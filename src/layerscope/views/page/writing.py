"""Write a result as one HTML page that needs no network, no server and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.persistence.atomic_files import check_writable, write_atomically
from layerscope.records.comparison import Comparison
from layerscope.records.history import History
from layerscope.records.quantization import QuantizationAudit, QuantizationPlan
from layerscope.records.report import Report
from layerscope.views.page.escaping import content_hash, load_template, pack_lines, read_template
from layerscope.views.plots import style
from layerscope.views.plots.pictures import Target, last_reports

if TYPE_CHECKING:
    from layerscope.views.page.landscape_page import LandscapeRecord


DARK_PAGE_COLORS = {  # colors of the page background and text; the light ones are in the style sheet
    "page": style.GROUND.dark, "card": "#1b1f26", "line": "#3a414b", "soft": "#262b33", "text": "#e6e9ee",
    "faint": "#a3abb6", "link": "#6cb6ff", "mark": "#4a3f12", "cell-none": "#262b33",
}  # fmt: skip


def write_page(record: Target | LandscapeRecord | Any, path: str | Path) -> None:
    """Write the page atomically.

    :raises OutputError: if the file cannot be written.
    """
    check_writable(path)
    write_atomically(path, render_page(record).encode("utf-8", "backslashreplace"))


def render_page(record: Target | LandscapeRecord | Any) -> str:
    """Render the page as text. For runs, the page shows their last reports and the curves over training."""
    from markupsafe import Markup

    page, lines = _build_page(record)
    script, style = read_template("charts.js") + read_template("page.js"), _stylesheet()
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"script-src '{content_hash(script)}'; style-src '{content_hash(style)}'"
    )
    text: str = load_template().render(
        page=page, policy=policy, script=Markup(script), style=Markup(style), data=Markup(pack_lines(lines))
    )
    return text


def _build_page(record: Target | LandscapeRecord | Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (template context, data lines) for any record that has a page."""
    from layerscope.views.page import comparison_page, experiment_page, landscape_page, quantization_page, report_page

    if isinstance(record, Report):
        return report_page.build_page(record)
    if isinstance(record, Comparison):
        return comparison_page.build_page(record)
    if isinstance(record, Sequence) and isinstance(record[0], History):
        runs = [run for run in record if isinstance(run, History)]
        latest = last_reports(runs)
        return (
            comparison_page.build_page(latest, runs)
            if isinstance(latest, Comparison)
            else report_page.build_page(latest, runs)
        )
    if isinstance(record, QuantizationAudit | QuantizationPlan):
        return quantization_page.build_page(record)
    if hasattr(record, "claims"):
        return experiment_page.build_page(record)
    return landscape_page.build_page(record)  # type: ignore[arg-type]


@cache
def _stylesheet() -> str:
    """Return the style sheet with the colors of all tones filled in."""
    tones = [*style.TONES, *(style.series_tone(i) for i in range(len(style.SERIES)))]
    light, dark = (
        "".join(f"--t-{tone}:{style.tone_color(tone, dark=night)};" for tone in tones)
        + f"--grid:{style.GRID.dark if night else style.GRID.light};"
        + f"--t-over-text:{'#ff9550' if night else '#a84700'};"
        for night in (False, True)
    )
    values = {
        "{{ light }}": light,
        "{{ dark }}": dark,
        "{{ dark_page }}": "color-scheme: dark;"
        + "".join(f"--{name}:{value};" for name, value in DARK_PAGE_COLORS.items()),
        "{{ tones }}": "".join(f".t-{tone}{{--c:var(--t-{tone})}}" for tone in tones),
    }
    text = read_template("style.css")
    for name, value in values.items():
        text = text.replace(name, value)
    return text
