"""What pages consist of: rows, findings, what was left out, how it was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from layerscope import registry
from layerscope.records.findings import SEVERITIES, Finding
from layerscope.records.history import History
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import plural, printable
from layerscope.views import headline
from layerscope.views.plots.marks import Picture, plain
from layerscope.views.plots.pictures import RUN, WHOLE_RUN
from layerscope.views.plots.run_lines import some
from layerscope.views.rerun_command import changed_settings

NAMELESS = "(no name)"  # of a layer whose name is empty
MOST_ITEMS = 200  # layers listed below one verdict, or tensors below one reason


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
MOST_STEPS = 60  # that the page holds a picture of
MOST_CURVES = 4  # layers whose curves are shown at once


def over_runs(runs: Sequence[History]) -> list[dict[str, Any]]:
    """The curves of the first layer, of the last, and of some in between."""
    if not runs:
        return []
    common = set.intersection(*({row.name for row in run.last.rows if not row.skipped} for run in runs))
    names = [row.name for row in runs[0].last.rows if row.name in common]
    every = [names[i] for i in some(len(names), MOST_CURVES)]
    found = [picture for name in every for picture in of_runs(runs, name)]
    modules = [plugin.target for plugin in registry.plugins("plots").values() if plugin.target.SCOPE == WHOLE_RUN]
    whole = [plain(picture) for module in modules for picture in module.data(runs)]
    return whole + [plain(replace(picture, title=f"{picture.title}: {picture.of}")) for picture in found]


def step_by_step(runs: Sequence[History]) -> list[dict[str, Any]]:
    """α by depth, and what stands out, at each step of one run, or at some of them."""
    if len(runs) != 1 or len(runs[0].steps) < 2:
        return []
    (run,), found = runs, []
    modules = [registry.find("plots", name).target for name in BY_DEPTH]
    module = next((each for each in modules if not each.data(run.last).empty), modules[0])
    for i in some(len(run.steps), MOST_STEPS):
        picture = module.data(run.reports[i])
        if picture.empty:
            continue
        codes = sorted({f"{f.code} {f.title}" for f in run.reports[i].findings if f.severity != "info"})
        scalars = ", ".join(f"{printable(name, 40)} {value:.4g}" for name, value in run.scalars[i].items())
        told = "; ".join(filter(None, (scalars, ", ".join(printable(code, 60) for code in codes[:6]))))
        found.append({"step": run.steps[i], "told": told, "picture": plain(picture)})
    return found


def of_runs(runs: Sequence[History], layer: str) -> list[Picture]:
    """What the pictures of runs show of a layer."""
    modules = [plugin.target for plugin in registry.plugins("plots").values() if plugin.target.SCOPE == RUN]
    found = [module.data(runs, layer) for module in modules] if runs else []
    return [picture for picture in found if not picture.empty]


def findings(
    owned: Sequence[tuple[str, Finding]], row_of: Callable[[str, Finding], int | None]
) -> list[dict[str, Any]]:
    """Findings by verdict, each with its explanation; ``owned`` says whose they are ("" for the only model's)."""
    groups = headline.by_code([finding for _, finding in owned])
    owner = {id(finding): name for name, finding in owned}
    return [
        {
            "code": printable(code, 20),
            "title": printable(found[0].title, 80),
            "severity": found[0].severity,
            "where": "the whole model" if found[0].layer is None else plural(len(found), "layer"),
            "found": [_item(owner[id(f)], f, row_of) for f in found[:MOST_ITEMS]],
            "more": max(0, len(found) - MOST_ITEMS),
            **_explained(code),
        }
        for code, found in groups.items()
    ]


def _item(owner: str, finding: Finding, row_of: Callable[[str, Finding], int | None]) -> dict[str, Any]:
    name = printable(finding.where, 600) or NAMELESS
    return {
        "row": row_of(owner, finding),
        "name": f"{owner}: {name}" if owner else name,
        "message": printable(finding.message, 600),
    }


def _explained(code: str) -> dict[str, Any]:
    plugin = registry.plugins("rules").get(code)
    if plugin is None:  # of a report that another version judged
        return {"explanation": "This version of layerscope does not know the verdict.", "ref": "–"}
    return {"explanation": prose(plugin.doc), "ref": plugin.meta["ref"]}


def prose(doc: str) -> str:
    """A docstring as HTML that the template takes as it is; only for docstrings of plugins."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    rendered: str = Markup(MarkdownIt("commonmark", {"html": False}).render(doc.replace("``", "`")))
    return rendered


def codes(text: str, found: Sequence[Finding], *, failed: bool = False) -> Cell:
    """The cell of a row's verdicts: sorted by gravity, then by code; without any last."""
    worst = "error" if failed else headline.gravity(found)
    grave = 3 - SEVERITIES.index(worst) if worst else 9
    first = min((f.code for f in found if f.severity == worst), default="")
    digits = "".join(c for c in first if c.isdigit())[:6]
    return Cell(text, f"{grave}{digits:0>6}", f"left {worst}".strip())


def skipped(report: Report) -> list[dict[str, Any]]:
    """Tensors that were not analysed, by reason."""
    return [
        {
            "reason": printable(reason, 300),
            "count": plural(len(rows), "tensor"),
            "names": [printable(row.name, 600) for row in rows[:MOST_ITEMS]],
            "more": max(0, len(rows) - MOST_ITEMS),
        }
        for reason, rows in headline.skipped(report)
    ]


def facts(report: Report) -> list[tuple[str, str]]:
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


def made(report: Report) -> list[tuple[str, str]]:
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


def all_settings(report: Report) -> list[tuple[str, str]]:
    """Every setting and limit."""
    plain = report.settings.to_dict()
    limits = plain.pop("limits")
    shown = {**plain, **{f"limits.{name}": value for name, value in limits.items()}}
    return [(name, printable(value, 300)) for name, value in shown.items()]


def terms() -> dict[str, dict[str, str]]:
    """Unit and meaning of each metric."""
    return {
        plugin.name: {"unit": str(plugin.meta["unit"]), "what": plugin.title.replace("``", "")}
        for plugin in registry.plugins("metrics").values()
    }


def important(rows: Sequence[tuple[int, LayerReport]], report: Report, most: int) -> list[tuple[int, LayerReport]]:
    """At most so many rows, in their order: failures, errors and warnings first, the others evenly spread."""
    if len(rows) <= most:
        return list(rows)
    worst = {f.layer: 0 for f in report.findings if f.severity == "warn"}
    worst |= {f.layer: -1 for f in report.findings if f.severity == "error"}
    first = [pair for pair in rows if pair[1].name in worst or pair[1].failed]
    first = sorted(first, key=lambda pair: worst.get(pair[1].name, -2))[:most]
    taken = {number for number, _ in first}
    rest = [pair for pair in rows if pair[0] not in taken]
    room = most - len(first)
    first += [rest[i * len(rest) // room] for i in range(room)]
    return sorted(first, key=lambda pair: pair[0])
