"""Build the page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from layerscope import registry
from layerscope.records.comparison import ComparedLayer, Comparison
from layerscope.records.findings import Finding
from layerscope.records.history import History
from layerscope.text import format_number, plural, printable
from layerscope.views import headline, side_by_side
from layerscope.views.comparison import alpha_cells, choose_distance_columns
from layerscope.views.page import page_parts
from layerscope.views.page.page_parts import Cell, Column, Row, Section
from layerscope.views.plots.marks import Picture, Points, picture_to_json
from layerscope.views.plots.pictures import make_pictures
from layerscope.views.rerun_command import comparison_command

MAX_NAMED_MODELS = 6  # models named in the title and summarized individually
MAX_TABLE_ROWS = 4000  # rows of the table
MAX_PICTURED_LAYERS = 1500  # layers with plots on the page
CAPTION = "Layers with the same name in all models. Open a row to see its spectra in each model."
STATUS_ORDER = ("", "thin", "warn", "error", "failed")  # the worst status of all models sets the color of the page
DISTANCE_DESCRIPTIONS = {  # {a} and {b}: letters of the two models
    "relative": "Relative distance ‖{b} − {a}‖F / ‖{a}‖F of the weights.",
    "cosine": "Cosine similarity of the weights of {a} and {b}.",
    "cka": "Linear CKA of the weights of {a} and {b}, without centering.",
    "overlap": "Overlap of the leading singular subspaces of {a} and {b}, from 0 to 1.",
}
DEPTH_PICTURES = ("alpha_by_depth", "shape_scale")
# Shown if at least one model was run on data.
CONDITIONING_PICTURES = ("factors_by_depth", "kappa_by_depth", "neurons_by_depth")


def build_page(comparison: Comparison, runs: Sequence[History] = ()) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (template context, data lines: the shared terms, then one line per layer with plots)."""
    letters, reports = comparison.letters, comparison.reports
    named_findings = [(letter, f) for letter, report in zip(letters, reports, strict=True) for f in report.findings]
    row_numbers = {
        (letter, report.rows[layer.rows[k]].name): i
        for i, layer in enumerate(comparison.layers[:MAX_TABLE_ROWS])
        for k, (letter, report) in enumerate(zip(letters, reports, strict=True))
    }
    findings_by_layer: dict[tuple[str, str | None], list[Finding]] = {}
    for letter, finding in named_findings:
        findings_by_layer.setdefault((letter, finding.layer), []).append(finding)
    first = reports[0]
    context = {
        "what": "comparison",
        "title": _page_title(comparison),
        "facts": [
            *((x, printable(r.meta["target"], 1000)) for x, r in zip(letters, reports, strict=True)),
            ("matched", plural(len(comparison.layers), "layer")),
        ],
        "gravity": max((headline.overall_status(r) for r in reports), key=STATUS_ORDER.index),
        "sentences": [
            headline.comparison_sentence(comparison),
            " ".join(printable(line, 600) for line in comparison.reading),
        ],
        "certainty": [*(printable(line, 600) for line in comparison.warnings), *_describe_each_model(comparison)],
        "sections": [
            *([page_parts.OVER_RUNS] if runs else []),
            Section("Models side by side", "together"),
            Section("Each model by depth", "each"),
        ],
        "summary": side_by_side.median_rows(reports, letters),
        "columns": _make_columns(comparison),
        "rows": [
            _make_row(comparison, i, layer, findings_by_layer)
            for i, layer in enumerate(comparison.layers[:MAX_TABLE_ROWS])
        ],
        "caption": page_parts.make_caption(
            CAPTION,
            min(len(comparison.layers), MAX_TABLE_ROWS),
            len(comparison.layers),
            " The table shows the first {shown:,} of {all:,} layers",
        ),
        "no_rows": "No layer was analyzed under the same name in all models.",
        "search": "name, verdict …",
        "filters": _make_filters(comparison, [finding for _, finding in named_findings]),
        "findings": page_parts.finding_groups(
            named_findings, lambda letter, f: None if f.layer is None else row_numbers.get((letter, f.layer))
        ),
        "skipped": _unmatched_groups(comparison),
        "command": comparison_command(comparison),
        "made": [
            *(
                row
                for x, r in zip(letters, reports, strict=True)
                for row in [(f"{x} created by", _describe_versions(r.meta))]
            ),
            *page_parts.provenance_rows(first)[1:],
        ],
        "settings": page_parts.settings_rows(first),
        "version": printable(first.meta.get("layerscope", ""), 40),
    }
    pictured = comparison.layers[:MAX_PICTURED_LAYERS]
    lines = [_build_layer_detail(comparison, layer, findings_by_layer, runs) for layer in pictured]
    shared_names = [name for name, plugin in registry.plugins("plots").items() if plugin.target.SCOPE == "models"]
    conditioning_names = CONDITIONING_PICTURES if any("conditioning" in report.meta for report in reports) else ()
    model_pictures = [
        (k, p) for name in (*conditioning_names, *DEPTH_PICTURES) for k, p in enumerate(make_pictures(name, comparison))
    ]
    charts = {
        "run": page_parts.run_charts(runs),
        "together": [picture_to_json(picture) for name in shared_names for picture in make_pictures(name, comparison)],
        "each": [
            picture_to_json(_link_points_to_matched_rows(p, k, comparison))
            for k, p in model_pictures
            if not p.empty or not conditioning_names
        ],
    }
    head = {
        "metrics": {},
        "reasons": [],
        "at": {i: i + 1 for i in range(len(pictured))},
        "charts": charts,
        "unpictured": f"This layer has no plots: the page contains those of only {MAX_PICTURED_LAYERS:,} layers.",
    }
    return context, [head, *lines]


def _describe_each_model(comparison: Comparison) -> list[str]:
    """Return the first summary sentence of each model's own report."""
    models = list(zip(comparison.letters, comparison.reports, strict=True))
    sentences = [
        f"Model {letter}: {headline.summary_sentences(report)[0]}" for letter, report in models[:MAX_NAMED_MODELS]
    ]
    more = len(models) - MAX_NAMED_MODELS
    return (
        sentences if more <= 0 else [*sentences, f"… and {plural(more, 'more model')}; see the report of each model."]
    )


def _page_title(comparison: Comparison) -> str:
    if len(comparison.names) > MAX_NAMED_MODELS:
        return f"{len(comparison.names)} models"
    return " · ".join(f"{x} {printable(n, 80)}" for x, n in zip(comparison.letters, comparison.names, strict=True))


def _describe_versions(meta: Any) -> str:
    return printable(
        f"layerscope {meta.get('layerscope', '?')}, numpy {meta.get('numpy', '?')}, {meta.get('started', '')}"
    )


def _make_columns(comparison: Comparison) -> list[Column]:
    letters = comparison.letters
    columns = [
        Column("layer", "Name of the layer, the same in all models.", left=True),
        Column("verdict", "Codes of the findings for each model.", left=True),
    ]
    columns += [
        Column(f"α {x}", f"Power-law exponent in model {x}; ? marks an exponent that does not support a verdict.")
        for x in letters
    ]
    columns += [
        Column(f"α {x} − α {letters[0]}", f"Exponent in model {x} minus exponent in model {letters[0]}.")
        for x in letters[1:]
    ]
    columns += [Column(f"logλmax {x}", f"log₁₀ of the largest eigenvalue in model {x}.") for x in letters]
    for x in letters[1:]:
        columns += [
            Column(f"{head} {x}", DISTANCE_DESCRIPTIONS.get(name, name).format(a=letters[0], b=x))
            for name, head, _ in choose_distance_columns(comparison)
        ]
    return columns


def _make_row(
    comparison: Comparison,
    at: int,
    layer: ComparedLayer,
    findings_by_layer: dict[tuple[str, str | None], list[Finding]],
) -> Row:
    findings_by_letter = _findings_by_model(comparison, layer, findings_by_layer)
    findings = [finding for _, group in findings_by_letter for finding in group]
    codes = "; ".join(
        f"{x} {' '.join(printable(f.code, 20) for f in group)}" for x, group in findings_by_letter if group
    )
    values = [m.get("alpha") for m in layer.metrics]
    first = values[0]
    cells = [
        Cell(printable(layer.name, 160) or page_parts.NAMELESS, opens=True),
        page_parts.make_verdict_cell(codes or "–", findings),
    ]
    for text, value in zip(alpha_cells(layer), values, strict=True):
        cells.append(Cell(text, "" if value is None else float(value), "doubt" if text.endswith("?") else ""))
    cells += [
        _make_number_cell(None if a is None or first is None else float(a) - float(first), "+.2f") for a in values[1:]
    ]
    cells += [_make_number_cell(m.get("log_spectral_norm"), ".2f") for m in layer.metrics]
    shown = choose_distance_columns(comparison)
    cells += [
        _make_number_cell(distances.get(name), fmt) for distances in layer.distances[1:] for name, _, fmt in shown
    ]
    kind = comparison.reports[0].rows[layer.rows[0]].ref.kind
    return Row(
        at,
        cells,
        [("kind", printable(kind, 40)), ("codes", " ".join(dict.fromkeys(printable(f.code, 20) for f in findings)))],
    )


def _make_number_cell(value: Any, fmt: str) -> Cell:
    return Cell(format_number(value, fmt), "" if value is None else float(value))


def _findings_by_model(
    comparison: Comparison, layer: ComparedLayer, findings_by_layer: dict[tuple[str, str | None], list[Finding]]
) -> list[tuple[str, list[Finding]]]:
    models = zip(comparison.letters, comparison.reports, layer.rows, strict=True)
    return [(x, findings_by_layer.get((x, report.rows[row].name), [])) for x, report, row in models]


def _build_layer_detail(
    comparison: Comparison,
    layer: ComparedLayer,
    findings_by_layer: dict[tuple[str, str | None], list[Finding]],
    runs: Sequence[History] = (),
) -> dict[str, Any]:
    compared = registry.plugins("plots")["esd_compared"].target.data(comparison, layer)
    single = registry.plugins("plots")["esd"].target
    pictures = [compared]
    for x, report, row in zip(comparison.letters, comparison.reports, layer.rows, strict=True):
        picture = single.data(report, report.rows[row])
        pictures.append(replace(picture, title=f"{x}: {picture.title}"))
    pictures += page_parts.layer_run_pictures(runs, layer.name)
    return {
        "name": printable(layer.name, 2000) or page_parts.NAMELESS,
        "findings": [
            [printable(f.code, 20), f"{printable(f.title, 80)}, {x}", f.severity, printable(f.message, 600)]
            for x, group in _findings_by_model(comparison, layer, findings_by_layer)
            for f in group
        ],
        "pictures": [picture_to_json(picture) for picture in pictures],
    }


def _link_points_to_matched_rows(picture: Picture, model: int, comparison: Comparison) -> Picture:
    """Return the plot with points that link to the rows of matched layers, not to rows of the model's own report."""
    matched = {layer.rows[model]: i for i, layer in enumerate(comparison.layers[:MAX_TABLE_ROWS])}
    marks = tuple(
        replace(mark, rows=tuple(matched.get(row, -1) for row in mark.rows)) if isinstance(mark, Points) else mark
        for mark in picture.marks
    )
    return replace(picture, marks=marks)


def _make_filters(comparison: Comparison, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Create the menus of layer kinds and finding codes."""
    kinds = sorted({comparison.reports[0].rows[layer.rows[0]].ref.kind for layer in comparison.layers})
    codes = sorted({(f.code, f.title) for f in findings if f.layer is not None})
    return page_parts.make_filters(
        [(kind, "") for kind in kinds], [(code, f" {printable(title, 60)}") for code, title in codes]
    )


def _unmatched_groups(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "reason": f"analyzed only in {x}",
            "count": plural(len(names), "layer"),
            "names": [printable(name, 600) for name in names[: page_parts.MAX_LISTED_ITEMS]],
            "more": max(0, len(names) - page_parts.MAX_LISTED_ITEMS),
        }
        for x, names in zip(comparison.letters, comparison.unmatched, strict=True)
        if names
    ]
