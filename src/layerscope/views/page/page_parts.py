"""Building blocks of pages: table rows, findings, skipped tensors, provenance and charts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from layerscope import registry
from layerscope.records.findings import SEVERITIES, Finding
from layerscope.records.history import History
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import plural, printable
from layerscope.views import headline
from layerscope.views.plots.marks import Picture, picture_to_json
from layerscope.views.plots.pictures import LAYER_OF_RUNS_SCOPE, RUN_SCOPE
from layerscope.views.plots.run_lines import spread_indices
from layerscope.views.rerun_command import changed_settings

NAMELESS = "(no name)"  # shown for a layer with an empty name
MAX_LISTED_ITEMS = 200  # layers listed per finding code, or tensors listed per reason


class Column(NamedTuple):
    """A column of the table of layers."""

    head: str
    what: str  # first line of the explanation
    left: bool = False
    prose: str = ""  # full explanation, as HTML from our own docstrings


class Cell(NamedTuple):
    """One cell: the text it shows and, if different, the value it is sorted by."""

    text: str
    value: float | str | None = None  # "" sorts last
    style: str = ""
    opens: bool = False  # the cell holds the row's name and opens the row


class Row(NamedTuple):
    """One row of the table of layers."""

    number: int
    cells: list[Cell]
    data: list[tuple[str, str]]  # attributes used by the filters


class Section(NamedTuple):
    """A heading with charts below it."""

    title: str
    charts: str  # key of the charts in the page's data
    wide: bool = False
    tall: int = 230
    note: str = ""
    slider: bool = False  # show one chart at a time, chosen by training step


STEP_BY_STEP = Section("Step by step", "steps", wide=True, tall=270, slider=True)
MAX_CURVE_LAYERS = 4  # layers with curves in the section of the run
OVER_RUNS = Section(
    "During training",
    "run",
    tall=380,
    note=f"Curves of up to {MAX_CURVE_LAYERS} layers. Open a row of the table for the curves of its layer.",
)
BY_DEPTH = ("alpha_by_depth", "factors_by_depth", "norms_by_depth")  # the first plot that is not empty is used
MAX_STEP_PICTURES = 60  # training steps with a plot on the page


def run_charts(runs: Sequence[History]) -> list[dict[str, Any]]:
    """Return curves for the first layer, the last layer and evenly spaced layers between them."""
    if not runs:
        return []
    common = set.intersection(*({row.name for row in run.last.rows if not row.skipped} for run in runs))
    names = [row.name for row in runs[0].last.rows if row.name in common]
    shown = [names[i] for i in spread_indices(len(names), MAX_CURVE_LAYERS)]
    pictures = [picture for name in shown for picture in layer_run_pictures(runs, name)]
    modules = [plugin.target for plugin in registry.plugins("plots").values() if plugin.target.SCOPE == RUN_SCOPE]
    run_pictures = [picture_to_json(picture) for module in modules for picture in module.data(runs)]
    return run_pictures + [
        picture_to_json(replace(picture, title=f"{picture.title}: {picture.of}")) for picture in pictures
    ]


def step_charts(runs: Sequence[History]) -> list[dict[str, Any]]:
    """Return a plot by depth and the findings for evenly spaced steps of a single run."""
    if len(runs) != 1 or len(runs[0].steps) < 2:
        return []
    (run,), charts = runs, []
    modules = [registry.find("plots", name).target for name in BY_DEPTH]
    module = next((candidate for candidate in modules if not candidate.data(run.last).empty), modules[0])
    for i in spread_indices(len(run.steps), MAX_STEP_PICTURES):
        picture = module.data(run.reports[i])
        if picture.empty:
            continue
        codes = sorted({f"{f.code} {f.title}" for f in run.reports[i].findings if f.severity != "info"})
        scalars = ", ".join(f"{printable(name, 40)} {value:.4g}" for name, value in run.scalars[i].items())
        description = "; ".join(filter(None, (scalars, ", ".join(printable(code, 60) for code in codes[:6]))))
        charts.append({"step": run.steps[i], "told": description, "picture": picture_to_json(picture)})
    return charts


def layer_run_pictures(runs: Sequence[History], layer: str) -> list[Picture]:
    """Return the plots of one layer over the steps of the runs."""
    modules = [
        plugin.target for plugin in registry.plugins("plots").values() if plugin.target.SCOPE == LAYER_OF_RUNS_SCOPE
    ]
    pictures = [module.data(runs, layer) for module in modules] if runs else []
    return [picture for picture in pictures if not picture.empty]


def finding_groups(
    named_findings: Sequence[tuple[str, Finding]], row_of: Callable[[str, Finding], int | None]
) -> list[dict[str, Any]]:
    """Group findings by code and add the explanation of each code.

    :param named_findings: pairs of (letter of the model, or "" if there is only one; finding).
    :param row_of: function that returns the table row of a finding, or None.
    """
    groups = headline.group_by_code([finding for _, finding in named_findings])
    owners = {id(finding): name for name, finding in named_findings}
    return [
        {
            "code": printable(code, 20),
            "title": printable(findings[0].title, 80),
            "severity": findings[0].severity,
            "where": "the whole model" if findings[0].layer is None else plural(len(findings), "layer"),
            "found": [_make_finding_item(owners[id(f)], f, row_of) for f in findings[:MAX_LISTED_ITEMS]],
            "more": max(0, len(findings) - MAX_LISTED_ITEMS),
            **_explain_code(code),
        }
        for code, findings in groups.items()
    ]


def _make_finding_item(owner: str, finding: Finding, row_of: Callable[[str, Finding], int | None]) -> dict[str, Any]:
    name = printable(finding.where, 600) or NAMELESS
    return {
        "row": row_of(owner, finding),
        "name": f"{owner}: {name}" if owner else name,
        "message": printable(finding.message, 600),
    }


def _explain_code(code: str) -> dict[str, Any]:
    plugin = registry.plugins("rules").get(code)
    if plugin is None:  # the report was created by another version
        return {"explanation": "This version of layerscope has no explanation for this code.", "ref": "–"}
    return {"explanation": docstring_html(plugin.doc), "ref": plugin.meta["ref"]}


def docstring_html(doc: str) -> str:
    """Convert a docstring to HTML that the template does not escape; only for docstrings of plugins."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    rendered: str = Markup(MarkdownIt("commonmark", {"html": False}).render(doc.replace("``", "`")))
    return rendered


def make_verdict_cell(text: str, findings: Sequence[Finding], *, failed: bool = False) -> Cell:
    """Create the cell with a row's finding codes, sorted by severity and code; rows without findings sort last."""
    worst = "error" if failed else headline.worst_severity(findings)
    severity_rank = 3 - SEVERITIES.index(worst) if worst else 9
    first = min((f.code for f in findings if f.severity == worst), default="")
    digits = "".join(c for c in first if c.isdigit())[:6]
    return Cell(text, f"{severity_rank}{digits:0>6}", f"left {worst}".strip())


def make_filters(
    kinds: Iterable[tuple[str, str]], codes: Iterable[tuple[str, str]], phases: Iterable[tuple[str, str]] = ()
) -> list[dict[str, Any]]:
    """Create the filter menus above the table, leaving out menus with a single choice.

    Each argument holds pairs of (value, text shown after the value).
    """

    def choices(values: Iterable[tuple[str, str]], max_chars: int = 40) -> list[tuple[str, str]]:
        return [(printable(value, max_chars), printable(value, max_chars) + note) for value, note in values]

    menus = (
        ("kind", "Kind", choices(kinds)),
        ("codes", "Verdict", [("*", "any"), *choices(codes, 20)]),
        ("phase", "Phase", choices(phases)),
    )
    return [{"key": key, "label": label, "choices": entries} for key, label, entries in menus if len(entries) > 1]


def make_caption(text: str, shown: int, total: int, limit: str) -> str:
    """Return the caption of the table; ``limit`` is appended if the table does not show all rows."""
    return text if shown >= total else f"{text}{limit.format(shown=shown, all=total)}; use --format csv to list all."


def skipped_groups(report: Report) -> list[dict[str, Any]]:
    """Group the tensors that were not analyzed by reason."""
    return [
        {
            "reason": printable(reason, 300),
            "count": plural(len(rows), "tensor"),
            "names": [printable(row.name, 600) for row in rows[:MAX_LISTED_ITEMS]],
            "more": max(0, len(rows) - MAX_LISTED_ITEMS),
        }
        for reason, rows in headline.group_skipped(report)
    ]


def report_facts(report: Report) -> list[tuple[str, str]]:
    """Return what was analyzed as (label, value) pairs."""
    meta = report.meta
    params = sum(row.ref.params for row in report.rows)
    return [
        ("format", printable(meta["format"], 40)),
        *([("read", printable(meta["read"], 120))] if "read" in meta else []),
        (
            "analyzed",
            f"{plural(sum(not row.skipped for row in report.rows), 'layer')} of {plural(len(report.rows), 'tensor')}",
        ),
        ("parameters", f"{params:,}"),
        *([("date", printable(meta["started"], 40))] if "started" in meta else []),
    ]


def provenance_rows(report: Report) -> list[tuple[str, str]]:
    """Return versions, seed and the settings that differ from the defaults."""
    meta = report.meta
    names = ("layerscope", "numpy", "python", "device", "engine", "workers", "seed", "started", "seconds")
    rows = [(name, printable(meta[name], 200)) for name in names if name in meta]
    changed = ", ".join(f"{name} = {value}" for name, value in changed_settings(report).items())
    return [
        ("target", printable(meta["target"], 1000)),
        *rows,
        ("settings changed", printable(changed, 2000) or "none"),
    ]


def settings_rows(report: Report) -> list[tuple[str, str]]:
    """Return every setting and limit with its value."""
    settings = report.settings.to_dict()
    limits = settings.pop("limits")
    shown = {**settings, **{f"limits.{name}": value for name, value in limits.items()}}
    return [(name, printable(value, 300)) for name, value in shown.items()]


def metric_terms() -> dict[str, dict[str, str]]:
    """Return the unit and the meaning of each metric."""
    return {
        plugin.name: {"unit": str(plugin.meta["unit"]), "what": plugin.title.replace("``", "")}
        for plugin in registry.plugins("metrics").values()
    }


def select_important_rows(
    rows: Sequence[tuple[int, LayerReport]], report: Report, most: int
) -> list[tuple[int, LayerReport]]:
    """Select at most ``most`` rows in their original order, preferring failures, errors and warnings.

    The remaining places go to evenly spaced rows.
    """
    if len(rows) <= most:
        return list(rows)
    priority = {f.layer: 0 for f in report.findings if f.severity == "warn"}
    priority |= {f.layer: -1 for f in report.findings if f.severity == "error"}
    chosen = [pair for pair in rows if pair[1].name in priority or pair[1].failed]
    chosen = sorted(chosen, key=lambda pair: priority.get(pair[1].name, -2))[:most]
    chosen_numbers = {number for number, _ in chosen}
    remaining_rows = [pair for pair in rows if pair[0] not in chosen_numbers]
    room = most - len(chosen)
    chosen += [remaining_rows[i * len(remaining_rows) // room] for i in range(room)]
    return sorted(chosen, key=lambda pair: pair[0])
