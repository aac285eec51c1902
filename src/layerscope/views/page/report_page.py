"""Build the page of a single report."""

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

MAX_TABLE_ROWS = 4000  # rows of the table
MAX_PICTURED_LAYERS = 1500  # layers with plots and metrics on the page
WHAT_ALPHA_IS = (
    "α is the exponent of the power law fitted to the largest eigenvalues of a layer. Layers of large, well-trained "
    "networks have α between 2 and 6. A smaller α means a heavier tail; a larger α means that the layer learned less."
)
CAPTION = (
    "Open a row to see its spectra and all metrics. Parentheses hold the range of α: the exponents that fit nearly "
    "as well. "
    "A ? marks an α that does not support a verdict, for example because the tail is short."
)
DIFF_CAPTION = (
    "Open a row to see the spectrum of its update W − W₀ and all metrics. Tensors that did not change are listed below."
)
SECTIONS = (  # each plot names its section
    page_parts.OVER_RUNS,
    page_parts.STEP_BY_STEP,
    Section("Depth profile", "depth", wide=True, tall=270, note=WHAT_ALPHA_IS),
    Section("Conditioning of inputs, gradients and curvature", "learning"),
    Section("Model overview", "model"),
)
DIFF_SECTIONS = (Section("What changed", "change", wide=True, tall=320),)
COLUMN_DESCRIPTIONS = {
    "layer_id": "Index among all tensors of the model.",
    "name": "Name of the tensor.",
    "layer_type": "Type of the layer.",
    "size": "Shape of the weight matrix; the number after · counts the matrices that are pooled.",
    "verdicts": "Codes of the findings, which are explained below.",
}


def build_page(report: Report, runs: Sequence[History] = ()) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (template context, data lines: the shared terms, then one line per layer with plots)."""
    columns = table.columns_by_importance(report)
    listed = [(i, row) for i, row in enumerate(report.rows) if not row.skipped or row.failed]
    shown = page_parts.select_important_rows(listed, report, MAX_TABLE_ROWS)
    pictured = page_parts.select_important_rows(shown, report, MAX_PICTURED_LAYERS)
    findings_by_layer = headline.group_by_layer(report.findings)
    numbers = {row.name: i for i, row in shown}
    values = report_rows.rows(report)
    rows = [_make_row(report, i, row, values[i], columns, findings_by_layer.get(row.name, [])) for i, row in shown]
    sections = DIFF_SECTIONS if "diff" in report.meta else SECTIONS
    charts = {section.charts: section_pictures(section.charts, report) for section in sections}
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
        "sections": [section for section in sections if charts[section.charts]],
        "summary": [],
        "columns": [_make_column(name) for name in columns],
        "rows": rows,
        "caption": page_parts.make_caption(
            DIFF_CAPTION if "diff" in report.meta else CAPTION,
            len(shown),
            len(listed),
            " The table shows {shown:,} of {all:,} layers, with preference for those that failed or have warnings",
        ),
        "no_rows": "No layer was analyzed.",
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
        "unpictured": f"This layer has no plots: the page contains those of only {MAX_PICTURED_LAYERS:,} layers.",
    }
    return context, [head, *lines]


def page_title(report: Report) -> str:
    """Return the file name of the target, the last two parts of a folder's path, or "model" for a live model."""
    return "model" if report.meta.get("asked", {}).get("live") else printable(short_target(report.meta["target"]))


def section_pictures(section: str, report: Report) -> list[dict[str, Any]]:
    """Return the plots of a section of the page.

    Empty plots are left out if they need data that the user did not pass. Plots that compare models are included if
    they also work for a single model.
    """
    modules = {name: plugin.target for name, plugin in registry.plugins("plots").items()}
    single = [name for name, module in modules.items() if module.SCOPE in ("model", "models")]
    names = [name for name in single if getattr(modules[name], "SECTION", "") == section]
    candidates = [(name, picture) for name in names for picture in make_pictures(name, report)]
    was_requested = (
        section == "learning" or "conditioning" in report.meta
    )  # do not show empty plots for measurements that the user did not request
    optional = {name for name in names if was_requested or modules[name].SCOPE == "models"}
    return [picture_to_json(picture) for name, picture in candidates if not (picture.empty and name in optional)]


def build_layer_detail(
    report: Report, layer: LayerReport, findings: list[Finding], reasons: dict[str, int], runs: Sequence[History] = ()
) -> dict[str, Any]:
    """Return the details that open below a row.

    :param reasons: shared table of reasons, extended here; details refer to a reason by its number.
    """
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
    """Create the menus of layer kinds, finding codes and phases, with the number of layers for each choice."""
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
