"""What pages consist of: rows, findings, what was left out, how it was made."""

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

NAMELESS = "(no name)"  # of a layer whose name is empty
MAX_LISTED_ITEMS = 200  # layers listed below one verdict, or tensors below one reason


class Column(NamedTuple):
    """A column of the table of layers."""

    head: str
    what: str  # its first line of explanation
    left: bool = False
    prose: str = ""  # all of it, as HTML of our own


class Cell(NamedTuple):
    """One cell: what it shows, and what it is sorted by where that is another thing."""

    text: str
    value: float | str | None = None  # "" sorts last
    style: str = ""
    opens: bool = False  # it is the row's name, which opens it


class Row(NamedTuple):
    """One row of the table of layers."""

    number: int
    cells: list[Cell]
    data: list[tuple[str, str]]  # what the filters look at


class Section(NamedTuple):
    """Some charts under a heading."""

    title: str
    charts: str  # their key in the page's data
    wide: bool = False
    tall: int = 230
    note: str = ""
    slider: bool = False  # its charts are one at a time, chosen by step


STEP_BY_STEP = Section("Step by step", "steps", wide=True, tall=270, slider=True)
OVER_RUNS = Section("Over the run", "run", tall=380, note="Some of the layers; every row holds the curves of its own.")
BY_DEPTH = ("alpha_by_depth", "factors_by_depth", "norms_by_depth")  # the first that says something
MAX_STEP_PICTURES = 60  # that the page holds a picture of
MAX_CURVE_LAYERS = 4  # layers whose curves are shown at once


def run_charts(runs: Sequence[History]) -> list[dict[str, Any]]:
    """The curves of the first layer, of the last, and of some in between."""
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
    """α by depth, and what stands out, at each step of one run, or at some of them."""
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
    """What the pictures of runs show of a layer."""
    modules = [
        plugin.target for plugin in registry.plugins("plots").values() if plugin.target.SCOPE == LAYER_OF_RUNS_SCOPE
    ]
    pictures = [module.data(runs, layer) for module in modules] if runs else []
    return [picture for picture in pictures if not picture.empty]


def finding_groups(
    named_findings: Sequence[tuple[str, Finding]], row_of: Callable[[str, Finding], int | None]
) -> list[dict[str, Any]]:
    """Findings by verdict, each with its explanation; ``owned`` says whose they are ("" for the only model's)."""
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
    if plugin is None:  # of a report that another version judged
        return {"explanation": "This version of layerscope does not know the verdict.", "ref": "–"}
    return {"explanation": docstring_html(plugin.doc), "ref": plugin.meta["ref"]}


def docstring_html(doc: str) -> str:
    """A docstring as HTML that the template takes as it is; only for docstrings of plugins."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    rendered: str = Markup(MarkdownIt("commonmark", {"html": False}).render(doc.replace("``", "`")))
    return rendered


def make_verdict_cell(text: str, findings: Sequence[Finding], *, failed: bool = False) -> Cell:
    """The cell of a row's verdicts: sorted by gravity, then by code; without any last."""
    worst = "error" if failed else headline.worst_severity(findings)
    severity_rank = 3 - SEVERITIES.index(worst) if worst else 9
    first = min((f.code for f in findings if f.severity == worst), default="")
    digits = "".join(c for c in first if c.isdigit())[:6]
    return Cell(text, f"{severity_rank}{digits:0>6}", f"left {worst}".strip())


def make_filters(
    kinds: Iterable[tuple[str, str]], codes: Iterable[tuple[str, str]], phases: Iterable[tuple[str, str]] = ()
) -> list[dict[str, Any]]:
    """The menus above the table, from (value, what follows it in its choice); a menu of one choice is left out."""

    def choices(values: Iterable[tuple[str, str]], max_chars: int = 40) -> list[tuple[str, str]]:
        return [(printable(value, max_chars), printable(value, max_chars) + note) for value, note in values]

    menus = (
        ("kind", "Kind", choices(kinds)),
        ("codes", "Verdict", [("*", "any"), *choices(codes, 20)]),
        ("phase", "Phase", choices(phases)),
    )
    return [{"key": key, "label": label, "choices": entries} for key, label, entries in menus if len(entries) > 1]


def make_caption(text: str, shown: int, total: int, limit: str) -> str:
    """The caption of the table; ``limit`` says which rows are shown, where that is not all of them."""
    return text if shown >= total else f"{text}{limit.format(shown=shown, all=total)}; --format csv has all."


def skipped_groups(report: Report) -> list[dict[str, Any]]:
    """Tensors that were not analysed, by reason."""
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
    """What was analysed, in a line."""
    meta = report.meta
    params = sum(row.ref.params for row in report.rows)
    return [
        ("format", printable(meta["format"], 40)),
        *([("read", printable(meta["read"], 120))] if "read" in meta else []),
        (
            "analysed",
            f"{plural(sum(not row.skipped for row in report.rows), 'layer')} of {plural(len(report.rows), 'tensor')}",
        ),
        ("parameters", f"{params:,}"),
        *([("on", printable(meta["started"], 40))] if "started" in meta else []),
    ]


def provenance_rows(report: Report) -> list[tuple[str, str]]:
    """Versions, seed and settings that are not the defaults."""
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
    """Every setting and limit."""
    settings = report.settings.to_dict()
    limits = settings.pop("limits")
    shown = {**settings, **{f"limits.{name}": value for name, value in limits.items()}}
    return [(name, printable(value, 300)) for name, value in shown.items()]


def metric_terms() -> dict[str, dict[str, str]]:
    """Unit and meaning of each metric."""
    return {
        plugin.name: {"unit": str(plugin.meta["unit"]), "what": plugin.title.replace("``", "")}
        for plugin in registry.plugins("metrics").values()
    }


def select_important_rows(
    rows: Sequence[tuple[int, LayerReport]], report: Report, most: int
) -> list[tuple[int, LayerReport]]:
    """At most so many rows, in their order: failures, errors and warnings first, the others evenly spread."""
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
