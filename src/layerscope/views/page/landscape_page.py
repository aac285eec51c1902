"""The page of the landscape: distances, lines, planes, basins. A row of its table is a pair of models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from layerscope.records.landscape.basins import Basins
from layerscope.records.landscape.distances import Distances
from layerscope.records.landscape.lines import Line
from layerscope.records.landscape.planes import Plane
from layerscope.text import number, plural, printable
from layerscope.views.page import page_parts
from layerscope.views.page.page_parts import Cell, Column, Row, Section
from layerscope.views.plots import landscape_pictures
from layerscope.views.plots.marks import Picture, plain

MOST_PAIRS = 2000
LONGEST = 80
DISTANCES = {
    "l2": "‖a − b‖ over the tensors that count.",
    "symmetric": "‖a − b‖ / √(‖a‖² + ‖b‖²): 0 for equal models, 1 for unrelated ones.",
    "relative": "‖a − b‖ / ‖a‖, a the first of the two.",
    "cosine": "Cosine of the angle between a and b, seen from zero.",
    "rms": "‖a − b‖ over the root of the number of entries.",
    "centred": "Cosine of the angle between a and b, seen from the origin that was given.",
    "scale": "The symmetric distance after scales that change nothing are removed.",
    "order": "The same with the second model's units in the order that fits best.",
}
FUNCTIONS = {
    "disagreement": "Share of the examples with another most likely class.",
    "normalised": "Disagreement over the mean of both error rates: 1 where errors are as independent as they can be.",
    "js": "Mean Jensen–Shannon divergence of the probabilities, in nats: 0 to 0.693.",
    "logits": "Root mean square difference of the logits, the mean of each example's taken off.",
    "cka": "Linear CKA of the logits: 1 where they are the same up to rotation and scale.",
}
WAYS = {
    "recompute": "statistics of batch norms computed anew at every point",
    "interpolate": "statistics of batch norms mixed like weights",
    "straight": "of the straight line",
    "aligned": "the second model's units in the first one's order",
    "repaired": "aligned, and units' means and spreads put back (REPAIR)",
}
BARRIERS = {
    "chord": "Highest loss over the chord of its ends.",
    "mean_ends": "Highest loss over the mean of the ends.",
    "max_ends": "Highest loss over the larger of the ends.",
    "signed": "Loss over the mean of the ends where it is farthest from it, above or below.",
}
Found = Basins | Distances | Plane | Sequence[Line]


def page(found: Found) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(what the template shows, lines of data)."""
    if isinstance(found, Basins):
        return _page("basins", found.names, found.about, _of_basins(found), _basin_rows(found), _basin_charts(found),
                     [line for _, line in _lines(found)], found.findings)  # fmt: skip
    if isinstance(found, Distances):
        about = {"tensors": len(found.tensors), "entries": f"{found.params:,}", "which": found.select}
        charts = [landscape_pictures.distance_matrix(found, kind) for kind in ("l2", "symmetric")]
        charts.append(landscape_pictures.distance_tree(found))
        told = [*found.reading(), *_said(found.findings)]
        return _page("distances", found.names, about, told, _distance_rows(found), charts, [], found.findings)
    if isinstance(found, Plane):
        charts = [landscape_pictures.plane(found, metric) for metric in found.metrics]
        if math.isfinite(found.angle) and found.track is None:
            charts += [landscape_pictures.plane(found, metric, "orthonormal") for metric in found.metrics]
        charts += [landscape_pictures.surface_of(found, metric) for metric in found.metrics]
        best = {metric: found.best(metric) for metric in found.metrics}
        told = [f"Best {printable(m, 40)} {x:.4g} at u = {u:.2f}, v = {v:.2f}." for m, (x, u, v) in best.items()]
        told += [f"{count} points have no value: {printable(why, 200)}." for why, count in found.holes.items()]
        told += _said(found.findings)
        return _page("plane", found.names, found.about, told, ([], []), charts, [], found.findings)
    names = tuple(dict.fromkeys(name for each in found for name in each.names))
    told = [f"{_pair(each)}: barrier {_value(each.barrier())}." for each in found]
    return _page(
        "line", names, found[0].about, told, _line_rows(found), [landscape_pictures.line(found)], list(found), ()
    )


def _page(
    what: str, names: Sequence[str], about: Any, told: Sequence[str], rows: tuple[list[Column], list[Row]],
    charts: Sequence[Picture], lines: Sequence[Line], findings: Sequence[Any],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    from importlib.metadata import version

    facts = [(printable(str(key), 40), printable(str(value), 200)) for key, value in about.items()]
    grave = any(finding.severity == "warn" for finding in findings)
    context = {
        "what": what,
        "title": " · ".join(printable(name, LONGEST) for name in names[:6]) + (" · …" if len(names) > 6 else ""),
        "facts": [("models", str(len(names))), *facts],
        "gravity": "warn" if grave else "",
        "sentences": list(told)[:3] or ["Nothing was measured."],
        "certainty": list(told)[3:] or ["Every number is of these examples and of this loss; see the facts above."],
        "sections": [Section("Pictures", "pictures", tall=360)],
        "summary": [],
        "columns": rows[0],
        "rows": rows[1][:MOST_PAIRS],
        "caption": "Pairs of models; open one for the line between them." if lines else "Pairs of models.",
        "no_rows": "Of a plane there are no pairs.",
        "search": "name …",
        "filters": [],
        "findings": page_parts.findings([("", finding) for finding in findings], lambda _, __: None),
        "skipped": [],
        "command": "",
        "made": [("made by", f"layerscope {version('layerscope')}")],
        "settings": [],
        "version": version("layerscope"),
    }
    details = [
        {"name": _pair(each), "findings": [], "pictures": [plain(landscape_pictures.line([each]))]}
        for each in lines[:MOST_PAIRS]
    ]  # fmt: skip
    head = {
        "metrics": {},
        "reasons": [],
        "at": {i: i + 1 for i in range(len(details))},
        "charts": {"pictures": [plain(picture) for picture in charts]},
        "unpictured": "There is no line between these.",
    }
    return context, [head, *details]


def _said(findings: Sequence[Any]) -> list[str]:
    return [f"{f.code} {f.title}: {printable(f.message, 400)}." for f in findings]


def _lines(found: Basins) -> list[tuple[tuple[str, str], Line]]:
    return list(found.lines.items())


def _of_basins(found: Basins) -> list[str]:
    groups = "; ".join(", ".join(printable(name, LONGEST) for name in group) for group in found.clusters)
    told = [f"{plural(len(found.names), 'model')} on {plural(len(found.clusters), 'mountain')}: {groups}."]
    told += [printable(line, 400) for line in found.advice()] + _said(found.findings)
    mean = ", ".join(f"{printable(k, 40)} {v:.4g}" for k, v in found.mean.items())
    told += [f"The mean of all of them has {mean}.", f"A barrier up to {found.tolerance:.3g} counts as none."]
    return told


def _basin_charts(found: Basins) -> list[Picture]:
    charts = [landscape_pictures.barriers(found, way) for way in found.barriers]
    charts.append(landscape_pictures.barrier_tree(found))
    for name, title in (("disagreement", "Predictions that differ"), ("cka", "Likeness of the logits (linear CKA)")):
        if name in found.functions:
            about = f"{plural(len(found.names), 'model')}, {found.about.get('examples', '')} examples"
            charts.append(landscape_pictures.matrix(name, title, about, found.names, found.functions[name], name))
    return charts


def _basin_rows(found: Basins) -> tuple[list[Column], list[Row]]:
    columns = [Column("pair", "Two models.", left=True)]
    columns += [
        Column(way, f"Barrier of the loss over the chord of its ends; {WAYS.get(way, way)}.") for way in found.barriers
    ]
    columns += [Column("±", "Standard error of the first, over the examples.")]
    columns += [Column(name, FUNCTIONS[name]) for name in found.functions]
    rows = []
    for at, (a, b) in enumerate(found.lines):
        i, j = found.names.index(a), found.names.index(b)
        cells = [Cell(f"{printable(a, LONGEST)} → {printable(b, LONGEST)}", opens=True)]
        cells += [_cell(float(values[i, j])) for values in found.barriers.values()]
        cells += [_cell(float(next(iter(found.errors.values()))[i, j]))]
        cells += [_cell(float(values[i, j])) for values in found.functions.values()]
        rows.append(Row(at, cells, []))
    return columns, rows


def _distance_rows(found: Distances) -> tuple[list[Column], list[Row]]:
    kinds = found.kinds
    columns = [Column("pair", "Two models.", left=True), *(Column(kind, DISTANCES[kind]) for kind in kinds)]
    matrices = [found.matrix(kind) for kind in kinds]
    rows: list[Row] = []
    for i, a in enumerate(found.names):
        for j, b in enumerate(found.names[:i]):
            cells = [Cell(f"{printable(b, LONGEST)} → {printable(a, LONGEST)}", opens=True)]
            rows.append(Row(len(rows), [*cells, *(_cell(float(m[j, i])) for m in matrices)], []))
    return columns, rows


def _line_rows(lines: Sequence[Line]) -> tuple[list[Column], list[Row]]:
    kinds = ("chord", "mean_ends", "max_ends", "signed")
    columns = [Column("pair", "Two models.", left=True), *(Column(k, BARRIERS[k]) for k in kinds)]
    rows = [
        Row(at, [Cell(_pair(each), opens=True),
                 *(_cell(each.barrier(kind).value) for kind in kinds)], [])
        for at, each in enumerate(lines)
    ]  # fmt: skip
    return columns, rows


def _pair(line: Line) -> str:
    return landscape_pictures.label(line)


def _cell(value: float) -> Cell:
    return Cell(number(value if math.isfinite(value) else None, ".4g"), value if math.isfinite(value) else "")


def _value(barrier: Any) -> str:
    error = "" if barrier.error is None else f" ± {barrier.error:.2g}"
    return f"{number(barrier.value if math.isfinite(barrier.value) else None, '.4g')}{error}"
