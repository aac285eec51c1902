"""Build the page of a loss-landscape result: distances, lines, planes or basins.

A row of its table is a pair of models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from layerscope.records.landscape.basins import Basins
from layerscope.records.landscape.distances import Distances
from layerscope.records.landscape.lines import Line
from layerscope.records.landscape.planes import Plane
from layerscope.text import format_number, plural, printable
from layerscope.views.landscape import basins_headline
from layerscope.views.page import page_parts
from layerscope.views.page.page_parts import Cell, Column, Row, Section
from layerscope.views.plots import landscape_pictures
from layerscope.views.plots.marks import Picture, picture_to_json

MAX_PAIRS = 2000
MAX_NAME_CHARS = 80
DISTANCE_DESCRIPTIONS = {
    "l2": "‖a − b‖ over the selected tensors.",
    "symmetric": "‖a − b‖ / √(‖a‖² + ‖b‖²): 0 for equal models, 1 for unrelated ones.",
    "relative": "‖a − b‖ / ‖a‖, where a is the first model of the pair.",
    "cosine": "Cosine of the angle between a and b, measured from zero.",
    "rms": "‖a − b‖ divided by the square root of the number of entries.",
    "centred": "Cosine of the angle between a and b, measured from the given origin.",
    "scale": "Symmetric distance after removing scale factors that do not change the function.",
    "order": "Symmetric distance after also aligning the hidden units of the second model with the first.",
}
FUNCTION_DESCRIPTIONS = {
    "disagreement": "Share of examples for which the two models predict different classes.",
    "normalised": "Disagreement divided by the mean of both error rates; 1 if errors are as independent as possible.",
    "js": "Mean Jensen–Shannon divergence of the predicted probabilities, in nats (0 to 0.693).",
    "logits": "Root mean square difference of the logits, after subtracting the mean of each example.",
    "cka": "Linear CKA of the logits; 1 if they are equal up to rotation and scale.",
}
WAY_DESCRIPTIONS = {
    "recompute": "batch norm statistics recomputed at every point",
    "interpolate": "batch norm statistics interpolated like weights",
    "straight": "on the straight line between the models",
    "aligned": "after aligning the hidden units of the second model with the first",
    "repaired": "after aligning hidden units and restoring the mean and spread of their activations (REPAIR)",
}
BARRIER_DESCRIPTIONS = {
    "chord": "Largest excess of the loss over the chord between the two ends.",
    "mean_ends": "Highest loss minus the mean loss of the two ends.",
    "max_ends": "Highest loss minus the larger loss of the two ends.",
    "signed": "Largest deviation of the loss from the mean loss of the two ends, with its sign.",
}
LandscapeRecord = Basins | Distances | Plane | Sequence[Line]


def build_page(record: LandscapeRecord) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (template context, data lines)."""
    if isinstance(record, Basins):
        return _assemble_page(
            "basins", record.names, record.about, _basin_sentences(record), _basin_table(record),
            _basin_pictures(record), list(record.lines.values()), record.findings,
        )  # fmt: skip
    if isinstance(record, Distances):
        about = {"tensors": len(record.tensors), "entries": f"{record.params:,}", "which": record.select}
        charts = [landscape_pictures.distance_matrix(record, kind) for kind in ("l2", "symmetric")]
        charts.append(landscape_pictures.distance_tree(record))
        sentences = [*record.reading(), *_finding_sentences(record.findings)]
        return _assemble_page(
            "distances", record.names, about, sentences, _distance_table(record), charts, [], record.findings
        )
    if isinstance(record, Plane):
        charts = [landscape_pictures.plane_picture(record, metric) for metric in record.metrics]
        if math.isfinite(record.angle) and record.track is None:
            charts += [landscape_pictures.plane_picture(record, metric, "orthonormal") for metric in record.metrics]
        charts += [landscape_pictures.surface_picture(record, metric) for metric in record.metrics]
        best = {metric: record.best(metric) for metric in record.metrics}
        sentences = [
            f"The best {printable(m, 40)} is {x:.4g} at u = {u:.2f}, v = {v:.2f}." for m, (x, u, v) in best.items()
        ]
        sentences += [
            f"{plural(count, 'point')} without a value: {printable(why, 200)}." for why, count in record.holes.items()
        ]
        sentences += _finding_sentences(record.findings)
        return _assemble_page("plane", record.names, record.about, sentences, ([], []), charts, [], record.findings)
    names = tuple(dict.fromkeys(name for line in record for name in line.names))
    sentences = [
        f"{landscape_pictures.line_label(line)}: the loss barrier is {_format_barrier(line.barrier())}."
        for line in record
    ]
    return _assemble_page(
        "line",
        names,
        record[0].about,
        sentences,
        _line_table(record),
        [landscape_pictures.line_picture(record)],
        list(record),
        (),
    )


def _assemble_page(
    what: str, names: Sequence[str], about: Any, sentences: Sequence[str], rows: tuple[list[Column], list[Row]],
    charts: Sequence[Picture], lines: Sequence[Line], findings: Sequence[Any],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    from importlib.metadata import version

    facts = [(printable(str(key), 40), printable(str(value), 200)) for key, value in about.items()]
    has_warning = any(finding.severity == "warn" for finding in findings)
    context = {
        "what": what,
        "title": " · ".join(printable(name, MAX_NAME_CHARS) for name in names[:6]) + (" · …" if len(names) > 6 else ""),
        "facts": [("models", str(len(names))), *facts],
        "gravity": "warn" if has_warning else "",
        "sentences": list(sentences)[:3] or ["Nothing was measured."],
        "certainty": list(sentences)[3:] or ["All numbers refer to the examples and the loss listed above."],
        "sections": [Section("Plots", "pictures", tall=360)],
        "summary": [],
        "columns": rows[0],
        "rows": rows[1][:MAX_PAIRS],
        "caption": "Pairs of models. Open a row to see the loss along the line between the two."
        if lines
        else "Pairs of models.",
        "no_rows": "A plane has no table of pairs.",
        "search": "name …",
        "filters": [],
        "findings": page_parts.finding_groups([("", finding) for finding in findings], lambda _, __: None),
        "skipped": [],
        "command": "",
        "made": [("created by", f"layerscope {version('layerscope')}")],
        "settings": [],
        "version": version("layerscope"),
    }
    details = [
        {
            "name": landscape_pictures.line_label(line),
            "findings": [],
            "pictures": [picture_to_json(landscape_pictures.line_picture([line]))],
        }
        for line in lines[:MAX_PAIRS]
    ]
    head = {
        "metrics": {},
        "reasons": [],
        "at": {i: i + 1 for i in range(len(details))},
        "charts": {"pictures": [picture_to_json(picture) for picture in charts]},
        "unpictured": "No line was evaluated between these two models.",
    }
    return context, [head, *details]


def _finding_sentences(findings: Sequence[Any]) -> list[str]:
    return [f"{f.code} {f.title}: {printable(f.message, 400)}" for f in findings]


def _basin_sentences(record: Basins) -> list[str]:
    sentences = [basins_headline(record.clusters)]
    sentences += [printable(line, 400) for line in record.advice()] + _finding_sentences(record.findings)
    mean = ", ".join(f"{printable(k, 40)} {v:.4g}" for k, v in record.mean.items())
    sentences += [
        f"The average of all models has {mean}.",
        f"Barriers up to {record.tolerance:.3g} are treated as zero.",
    ]
    return sentences


def _basin_pictures(record: Basins) -> list[Picture]:
    pictures = [landscape_pictures.barrier_matrix(record, way) for way in record.barriers]
    pictures.append(landscape_pictures.barrier_tree(record))
    for name, title in (
        ("disagreement", "Share of differing predictions"),
        ("cka", "Similarity of the logits (linear CKA)"),
    ):
        if name in record.functions:
            about = f"{plural(len(record.names), 'model')}, {record.about.get('examples', '')} examples"
            pictures.append(
                landscape_pictures.matrix_picture(name, title, about, record.names, record.functions[name], name)
            )
    return pictures


def _basin_table(record: Basins) -> tuple[list[Column], list[Row]]:
    columns = [Column("pair", "Names of the two models.", left=True)]
    columns += [
        Column(way, f"Loss barrier above the chord between the two ends; {WAY_DESCRIPTIONS.get(way, way)}.")
        for way in record.barriers
    ]
    columns += [Column("±", "Standard error of the first barrier column, over examples.")]
    columns += [Column(name, FUNCTION_DESCRIPTIONS[name]) for name in record.functions]
    rows = []
    for at, (a, b) in enumerate(record.lines):
        i, j = record.names.index(a), record.names.index(b)
        cells = [Cell(f"{printable(a, MAX_NAME_CHARS)} → {printable(b, MAX_NAME_CHARS)}", opens=True)]
        cells += [_make_number_cell(float(values[i, j])) for values in record.barriers.values()]
        cells += [_make_number_cell(float(next(iter(record.errors.values()))[i, j]))]
        cells += [_make_number_cell(float(values[i, j])) for values in record.functions.values()]
        rows.append(Row(at, cells, []))
    return columns, rows


def _distance_table(record: Distances) -> tuple[list[Column], list[Row]]:
    kinds = record.kinds
    columns = [
        Column("pair", "Names of the two models.", left=True),
        *(Column(kind, DISTANCE_DESCRIPTIONS[kind]) for kind in kinds),
    ]
    matrices = [record.matrix(kind) for kind in kinds]
    rows: list[Row] = []
    for i, a in enumerate(record.names):
        for j, b in enumerate(record.names[:i]):
            cells = [Cell(f"{printable(b, MAX_NAME_CHARS)} → {printable(a, MAX_NAME_CHARS)}", opens=True)]
            rows.append(Row(len(rows), [*cells, *(_make_number_cell(float(m[j, i])) for m in matrices)], []))
    return columns, rows


def _line_table(lines: Sequence[Line]) -> tuple[list[Column], list[Row]]:
    kinds = ("chord", "mean_ends", "max_ends", "signed")
    columns = [
        Column("pair", "Names of the two models.", left=True),
        *(Column(k, BARRIER_DESCRIPTIONS[k]) for k in kinds),
    ]
    rows = [
        Row(at, [Cell(landscape_pictures.line_label(line), opens=True),
                 *(_make_number_cell(line.barrier(kind).value) for kind in kinds)], [])
        for at, line in enumerate(lines)
    ]  # fmt: skip
    return columns, rows


def _make_number_cell(value: float) -> Cell:
    return Cell(format_number(value if math.isfinite(value) else None, ".4g"), value if math.isfinite(value) else "")


def _format_barrier(barrier: Any) -> str:
    error = "" if barrier.error is None else f" ± {barrier.error:.2g}"
    return f"{format_number(barrier.value if math.isfinite(barrier.value) else None, '.4g')}{error}"
