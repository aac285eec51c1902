"""The page of one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from layerscope import registry
from layerscope.records.findings import Finding
from layerscope.records.history import History
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import printable, short
from layerscope.views import headline, report_rows, table
from layerscope.views.page import page_parts
from layerscope.views.page.page_parts import Cell, Column, Row, Section
from layerscope.views.plots.marks import plain
from layerscope.views.plots.pictures import pictures
from layerscope.views.rerun_command import command

MOST_ROWS = 4000  # of the table
MOST_PICTURED = 1500  # whose pictures and numbers the page carries
WHAT_ALPHA_IS = (
    "α is the exponent of the power law that a layer's largest eigenvalues follow: its shape. Layers of large, "
    "well-trained networks lie between 2 and 6; smaller means heavier tails, larger means less learned."
)
SECTIONS = (  # a picture says in which it belongs
    page_parts.OVER_RUNS,
    page_parts.STEP_BY_STEP,
    Section("Depth profile", "depth", wide=True, tall=270, note=WHAT_ALPHA_IS),
    Section("How it learns", "learning"),
    Section("The model in pictures", "model"),
)
SIZES = {
    "layer_id": "Position among all tensors.", "name": "The tensor's name.", "layer_type": "Kind of layer.",
    "size": "Sides of the matrix; · how many are pooled.", "verdicts": "Codes of the findings, explained below.",
}  # fmt: skip


def page(report: Report, runs: Sequence[History] = ()) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(what the template shows, lines of data: the terms, then a line per pictured layer)."""
    columns = table.by_importance(report)
    listed = [(i, row) for i, row in enumerate(report.rows) if not row.skipped or row.failed]
    shown = page_parts.important(listed, report, MOST_ROWS)
    pictured = page_parts.important(shown, report, MOST_PICTURED)
    by_layer = headline.by_layer(report.findings)
    numbers = {row.name: i for i, row in shown}
    values = report_rows.rows(report)
    rows = [_row(report, i, row, values[i], columns, by_layer.get(row.name, [])) for i, row in shown]
    charts = {section.charts: pictured_in(section.charts, report) for section in SECTIONS}
    charts |= {"run": page_parts.over_runs(runs), "steps": page_parts.step_by_step(runs)}
    name = title_of(report)
    target = printable(report.meta["target"], 1000)
    context = {
        "what": "report",
        "title": name,
        "facts": [*([("target", target)] if target != name else []), *page_parts.facts(report)],
        "gravity": headline.standing(report),
        "sentences": headline.sentences(report),
        "certainty": headline.certainty(report),
        "sections": [section for section in SECTIONS if charts[section.charts]],
        "summary": [],
        "columns": [_column(name) for name in columns],
        "rows": rows,
        "caption": _caption(len(listed), len(shown)),
        "no_rows": "No layer was analysed.",
        "search": "name, phase, verdict …",
        "filters": _filters(shown, by_layer),
        "findings": page_parts.findings(
            [("", f) for f in report.findings], lambda _, f: None if f.layer is None else numbers.get(f.layer)
        ),
        "skipped": page_parts.skipped(report),
        "command": command(report),
        "made": page_parts.made(report),
        "settings": page_parts.all_settings(report),
        "version": printable(report.meta.get("layerscope", ""), 40),
    }
    reasons: dict[str, int] = {}
    lines = [detail(report, row, by_layer.get(row.name, []), reasons, runs) for _, row in pictured]
    head = {
        "metrics": page_parts.terms(),
        "reasons": list(reasons),
        "at": {number: line for line, (number, _) in enumerate(pictured, 1)},
        "charts": charts,
        "unpictured": f"The page holds the pictures of {MOST_PICTURED:,} layers; this one is not among them.",
    }
    return context, [head, *lines]


def title_of(report: Report) -> str:
    """The last part of the target's path, the last two where it is a folder's name; "model" of what has no path."""
    return "model" if report.meta.get("asked", {}).get("live") else printable(short(report.meta["target"]))


def pictured_in(section: str, report: Report) -> list[dict[str, Any]]:
    """The pictures that belong to a section of the page; none where no data ran, for what only data can fill.

    Pictures of several models are shown where one is enough for them.
    """
    modules = {name: plugin.target for name, plugin in registry.plugins("plots").items()}
    single = [name for name, module in modules.items() if module.SCOPE in ("model", "models")]
    names = [name for name in single if getattr(modules[name], "SECTION", "") == section]
    found = [(name, picture) for name in names for picture in pictures(name, report)]
    given = section == "learning" or "conditioning" in report.meta  # what was not asked for is no gap
    optional = {name for name in names if given or modules[name].SCOPE == "models"}
    return [plain(picture) for name, picture in found if not (picture.empty and name in optional)]


def detail(
    report: Report, layer: LayerReport, found: list[Finding], reasons: dict[str, int], runs: Sequence[History] = ()
) -> dict[str, Any]:
    """What opens below a row; reasons that many metrics share are numbered in ``reasons``."""
    absent: dict[str, list[str]] = {}
    for name, why in layer.absent.items():
        number = reasons.setdefault(printable(why, 200), len(reasons))
        absent.setdefault(str(number), []).append(name)
    modules = [plugin.target for plugin in registry.plugins("plots").values() if plugin.target.SCOPE == "layer"]
    asked = [x for x in modules if not hasattr(x, "NEEDS") or getattr(report.settings, x.NEEDS)]
    drawn = [] if layer.skipped else [(module, module.data(report, layer)) for module in asked]
    optional = "conditioning" in report.meta
    shown = [x for module, x in drawn if not x.empty or not (optional or getattr(module, "SECTION", "") == "learning")]
    shown += [] if layer.skipped else page_parts.of_runs(runs, layer.name)
    return {
        "name": printable(layer.name, 2000) or page_parts.NAMELESS,
        "how": printable(layer.skipped or layer.ref.how, 300),
        "findings": [
            [printable(f.code, 20), printable(f.title, 80), f.severity, printable(f.message, 600)] for f in found
        ],
        "metrics": {name: printable(x, 300) if isinstance(x, str) else _short(x) for name, x in layer.metrics.items()},
        "absent": absent,
        "pictures": [plain(picture) for picture in shown],
    }


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _row(
    report: Report, number: int, layer: LayerReport, values: dict[str, Any], columns: list[str], found: list[Finding]
) -> Row:
    cells = []
    for column in columns:
        drawn = table.cell(report.settings, layer, values, column, found)
        if column == "name":
            cells.append(Cell(printable(layer.name, 160) or page_parts.NAMELESS, opens=True))
        elif column == "verdicts":
            cells.append(page_parts.codes(drawn.text, found, failed=layer.failed))
        elif column in ("layer_type", "phase"):
            cells.append(Cell(drawn.text, style="left"))
        else:
            text = drawn.text.strip()
            cells.append(Cell(text, _sorted_by(values, column), "doubt" if text.endswith("?") else ""))
    data = [
        ("kind", printable(layer.ref.kind, 40)),
        ("codes", " ".join(dict.fromkeys(printable(f.code, 20) for f in found))),
        ("phase", printable(layer.metrics.get("phase", ""), 40)),
    ]
    return Row(number, cells, data)


def _sorted_by(values: dict[str, Any], column: str) -> float | str:
    if column == "size":
        return (values["N"] or 0) * (values["M"] or 0) * (values["rf"] or 0)
    value = values.get(column)
    return value if isinstance(value, int | float) else ""


def _column(name: str) -> Column:
    plugin = registry.plugins("metrics").get(name)
    if plugin is None:
        return Column(table.head(name), SIZES.get(name, ""), name in table.LEFT, SIZES.get(name, ""))
    return Column(table.head(name), plugin.title.replace("``", ""), name in table.LEFT, page_parts.prose(plugin.doc))


def _caption(listed: int, shown: int) -> str:
    text = "Open a row for its spectra and every number. ± is the farther end of α's interval; a ? marks an α that "
    text += "carries no verdict."
    if shown < listed:
        text += f" {shown:,} of {listed:,} layers, those that failed or have warnings first; --format csv has all."
    return text


def _filters(shown: list[tuple[int, LayerReport]], by_layer: dict[str | None, list[Finding]]) -> list[dict[str, Any]]:
    kinds = Counter(row.ref.kind for _, row in shown)
    codes = Counter(code for _, row in shown for code in {f.code for f in by_layer.get(row.name, [])})
    phases = Counter(str(row.metrics["phase"]) for _, row in shown if "phase" in row.metrics)
    plugins = registry.plugins("rules")
    titles = {code: plugins[code].meta["title"] if code in plugins else "" for code in codes}
    choices = [
        ("kind", "Kind", [(printable(kind, 40), f"{printable(kind, 40)} ({n})") for kind, n in kinds.most_common()]),
        (
            "codes",
            "Verdict",
            [
                ("*", "any"),
                *((printable(c, 20), f"{printable(c, 20)} {titles[c]} ({n})") for c, n in sorted(codes.items())),
            ],
        ),
        ("phase", "Phase", [(printable(p, 40), f"{printable(p, 40)} ({n})") for p, n in phases.most_common()]),
    ]
    return [{"key": key, "label": label, "choices": some} for key, label, some in choices if len(some) > 1]
