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
from layerscope.text import printable, short_target
from layerscope.views import headline, report_rows, table
from layerscope.views.page import page_parts
from layerscope.views.page.page_parts import Cell, Column, Row, Section
from layerscope.views.plots.marks import picture_to_json
from layerscope.views.plots.pictures import make_pictures
from layerscope.views.rerun_command import report_command

MAX_TABLE_ROWS = 4000  # of the table
MAX_PICTURED_LAYERS = 1500  # whose pictures and numbers the page carries
WHAT_ALPHA_IS = (
    "α is the exponent of the power law that a layer's largest eigenvalues follow: its shape. Layers of large, "
    "well-trained networks lie between 2 and 6; smaller means heavier tails, larger means less learned."
)
CAPTION = (
    "Open a row for its spectra and every number. ± is the farther end of α's interval; a ? marks an α that "
    "carries no verdict."
)
SECTIONS = (  # a picture says in which it belongs
    page_parts.OVER_RUNS,
    page_parts.STEP_BY_STEP,
    Section("Depth profile", "depth", wide=True, tall=270, note=WHAT_ALPHA_IS),
    Section("How it learns", "learning"),
    Section("The model in pictures", "model"),
)
COLUMN_DESCRIPTIONS = {
    "layer_id": "Position among all tensors.", "name": "The tensor's name.", "layer_type": "Kind of layer.",
    "size": "Sides of the matrix; · how many are pooled.", "verdicts": "Codes of the findings, explained below.",
}  # fmt: skip


def build_page(report: Report, runs: Sequence[History] = ()) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(what the template shows, lines of data: the terms, then a line per pictured layer)."""
    columns = table.columns_by_importance(report)
    listed = [(i, row) for i, row in enumerate(report.rows) if not row.skipped or row.failed]
    shown = page_parts.select_important_rows(listed, report, MAX_TABLE_ROWS)
    pictured = page_parts.select_important_rows(shown, report, MAX_PICTURED_LAYERS)
    findings_by_layer = headline.group_by_layer(report.findings)
    numbers = {row.name: i for i, row in shown}
    values = report_rows.rows(report)
    rows = [_make_row(report, i, row, values[i], columns, findings_by_layer.get(row.name, [])) for i, row in shown]
    charts = {section.charts: section_pictures(section.charts, report) for section in SECTIONS}
    charts |= {"run": page_parts.run_charts(runs), "steps": page_parts.step_charts(runs)}
    name = page_title(report)
    target = printable(report.meta["target"], 1000)
    context = {
        "what": "report",
        "title": name,
        "facts": [*([("target", target)] if target != name else []), *page_parts.report_facts(report)],
        "gravity": headline.overall_status(report),
        "sentences": headline.summary_sentences(report),
        "certainty": headline.certainty_sentences(report),
        "sections": [section for section in SECTIONS if charts[section.charts]],
        "summary": [],
        "columns": [_make_column(name) for name in columns],
        "rows": rows,
        "caption": page_parts.make_caption(
            CAPTION, len(shown), len(listed), " {shown:,} of {all:,} layers, those that failed or have warnings first"
        ),
        "no_rows": "No layer was analysed.",
        "search": "name, phase, verdict …",
        "filters": _make_filters([row for _, row in shown], findings_by_layer),
        "findings": page_parts.finding_groups(
            [("", f) for f in report.findings], lambda _, f: None if f.layer is None else numbers.get(f.layer)
        ),
        "skipped": page_parts.skipped_groups(report),
        "command": report_command(report),
        "made": page_parts.provenance_rows(report),
        "settings": page_parts.settings_rows(report),
        "version": printable(report.meta.get("layerscope", ""), 40),
    }
    reasons: dict[str, int] = {}
    lines = [build_layer_detail(report, row, findings_by_layer.get(row.name, []), reasons, runs) for _, row in pictured]
    head = {
        "metrics": page_parts.metric_terms(),
        "reasons": list(reasons),
        "at": {number: line for line, (number, _) in enumerate(pictured, 1)},
        "charts": charts,
        "unpictured": f"The page holds the pictures of {MAX_PICTURED_LAYERS:,} layers; this one is not among them.",
    }
    return context, [head, *lines]


def page_title(report: Report) -> str:
    """The last part of the target's path, the last two where it is a folder's name; "model" of what has no path."""
    return "model" if report.meta.get("asked", {}).get("live") else printable(short_target(report.meta["target"]))


def section_pictures(section: str, report: Report) -> list[dict[str, Any]]:
    """The pictures that belong to a section of the page; none where no data ran, for what only data can fill.

    Pictures of several models are shown where one is enough for them.
    """
    modules = {name: plugin.target for name, plugin in registry.plugins("plots").items()}
    single = [name for name, module in modules.items() if module.SCOPE in ("model", "models")]
    names = [name for name in single if getattr(modules[name], "SECTION", "") == section]
    candidates = [(name, picture) for name in names for picture in make_pictures(name, report)]
    was_requested = section == "learning" or "conditioning" in report.meta  # what was not asked for is no gap
    optional = {name for name in names if was_requested or modules[name].SCOPE == "models"}
    return [picture_to_json(picture) for name, picture in candidates if not (picture.empty and name in optional)]


def build_layer_detail(
    report: Report, layer: LayerReport, findings: list[Finding], reasons: dict[str, int], runs: Sequence[History] = ()
) -> dict[str, Any]:
    """What opens below a row; reasons that many metrics share are numbered in ``reasons``."""
    absent: dict[str, list[str]] = {}
    for name, reason in layer.absent.items():
        number = reasons.setdefault(printable(reason, 200), len(reasons))
        absent.setdefault(str(number), []).append(name)
    modules = [plugin.target for plugin in registry.plugins("plots").values() if plugin.target.SCOPE == "layer"]
    enabled = [x for x in modules if not hasattr(x, "NEEDS") or getattr(report.settings, x.NEEDS)]
    drawn = [] if layer.skipped else [(module, module.data(report, layer)) for module in enabled]
    optional = "conditioning" in report.meta
    shown = [x for module, x in drawn if not x.empty or not (optional or getattr(module, "SECTION", "") == "learning")]
    shown += [] if layer.skipped else page_parts.layer_run_pictures(runs, layer.name)
    return {
        "name": printable(layer.name, 2000) or page_parts.NAMELESS,
        "how": printable(layer.skipped or layer.ref.how, 300),
        "findings": [
            [printable(f.code, 20), printable(f.title, 80), f.severity, printable(f.message, 600)] for f in findings
        ],
        "metrics": {
            name: printable(x, 300) if isinstance(x, str) else _round_value(x) for name, x in layer.metrics.items()
        },
        "absent": absent,
        "pictures": [picture_to_json(picture) for picture in shown],
    }


def _round_value(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _make_row(
    report: Report, number: int, layer: LayerReport, values: dict[str, Any], columns: list[str], findings: list[Finding]
) -> Row:
    cells = []
    for column in columns:
        drawn = table.make_cell(report.settings, layer, values, column, findings)
        if column == "name":
            cells.append(Cell(printable(layer.name, 160) or page_parts.NAMELESS, opens=True))
        elif column == "verdicts":
            cells.append(page_parts.make_verdict_cell(drawn.text, findings, failed=layer.failed))
        elif column in ("layer_type", "phase"):
            cells.append(Cell(drawn.text, style="left"))
        else:
            text = drawn.text.strip()
            cells.append(Cell(text, _sort_key(values, column), "doubt" if text.endswith("?") else ""))
    data = [
        ("kind", printable(layer.ref.kind, 40)),
        ("codes", " ".join(dict.fromkeys(printable(f.code, 20) for f in findings))),
        ("phase", printable(layer.metrics.get("phase", ""), 40)),
    ]
    return Row(number, cells, data)


def _sort_key(values: dict[str, Any], column: str) -> float | str:
    if column == "size":
        return (values["N"] or 0) * (values["M"] or 0) * (values["rf"] or 0)
    value = values.get(column)
    return value if isinstance(value, int | float) else ""


def _make_column(name: str) -> Column:
    plugin = registry.plugins("metrics").get(name)
    if plugin is None:
        return Column(
            table.column_head(name),
            COLUMN_DESCRIPTIONS.get(name, ""),
            name in table.LEFT_ALIGNED_COLUMNS,
            COLUMN_DESCRIPTIONS.get(name, ""),
        )
    return Column(
        table.column_head(name),
        plugin.title.replace("``", ""),
        name in table.LEFT_ALIGNED_COLUMNS,
        page_parts.docstring_html(plugin.doc),
    )


def _make_filters(rows: Sequence[LayerReport], by_layer: dict[str | None, list[Finding]]) -> list[dict[str, Any]]:
    """The menus of kinds, verdicts and phases, each choice with its number of layers."""
    kinds = Counter(row.ref.kind for row in rows)
    codes = Counter(code for row in rows for code in {f.code for f in by_layer.get(row.name, [])})
    phases = Counter(str(row.metrics["phase"]) for row in rows if "phase" in row.metrics)
    plugins = registry.plugins("rules")
    titles = {code: plugins[code].meta["title"] if code in plugins else "" for code in codes}
    return page_parts.make_filters(
        [(kind, f" ({count})") for kind, count in kinds.most_common()],
        [(code, f" {titles[code]} ({count})") for code, count in sorted(codes.items())],
        [(phase, f" ({count})") for phase, count in phases.most_common()],
    )
