"""The axis of layers that all pictures of a model share, and the points that stand for layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from layerscope.records.findings import SEVERITIES, Finding
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.rules.tail_evidence import doubt
from layerscope.text import printable
from layerscope.views.headline import group_by_layer
from layerscope.views.plots.marks import Axis, Mark, Numbers, Points
from layerscope.views.plots.style import point_shape
from layerscope.views.short_names import short_names

MAX_NAMED_LAYERS = 16  # layers up to which each is named below the axis
MAX_NAME_CHARS = 28  # characters of such a name
VERDICT_TONES = {"LS101": "over", "LS102": "under", "LS105": "bad"}  # verdicts on α, and collapsed layers
CALM_TONES = ("good", "quiet")
TONE_ORDER = (*CALM_TONES, "other", "over", "under", "bad")  # drawn in this order, the gravest on top
NO_VERDICT_LABEL = "no verdict: too little evidence"


class PlacedLayer(NamedTuple):
    """An analyzed layer and its place in the picture."""

    row: int  # position in the report
    depth: float  # place on the axis of layers: the layer's number, or its position where every layer is named
    layer: LayerReport


def place_analyzed_layers(report: Report) -> list[PlacedLayer]:
    """The layers that have metrics, in the model's order."""
    rows = [(row, layer) for row, layer in enumerate(report.rows) if not layer.skipped]
    is_named = len(rows) <= MAX_NAMED_LAYERS
    return [
        PlacedLayer(row, float(position if is_named else layer.ref.index), layer)
        for position, (row, layer) in enumerate(rows)
    ]


def depth_axis(layers: Sequence[PlacedLayer]) -> Axis:
    """Layers in the model's order: by name where there are few, by the number in the table where there are many."""
    if len(layers) <= MAX_NAMED_LAYERS:
        names = short_names([printable(place.layer.name) for place in layers], MAX_NAME_CHARS).names
        return Axis("layer, in the model's order", "category", tuple(names))
    first, last = layers[0].depth, layers[-1].depth
    margin = max(1.0, (last - first) / len(layers) / 2)
    label = f"layer number, as in the table ({len(layers)} layers)"
    return Axis(label, low=first - margin, high=last + margin, whole=True)


def why_empty(report: Report, what: str) -> str:
    """Say why no layer has the quantity that a picture shows."""
    if not report.rows:
        return "the report has no layers"
    if all(layer.skipped for layer in report.rows):
        return "no layer was analyzed"
    reasons = [layer.absent[what] for layer in report.rows if what in layer.absent]
    common = max(sorted(set(reasons)), key=reasons.count, default="it was not measured")
    return f"no layer has a value: {printable(common, 120)}"


def metric_points(
    layers: Sequence[PlacedLayer],
    metric: str,
    label: str,
    *,
    tone: str,
    shape: str,
    panel: int,
    least: float = -math.inf,
) -> list[Mark]:
    """One metric by layer: a mark for the layers whose value is above ``least``, or nothing where none is."""
    places = [place for place in layers if float(place.layer.metrics.get(metric, -math.inf)) > least]
    if not places:
        return []
    values = tuple(float(place.layer.metrics[metric]) for place in places)
    labelled = zip(places, values, strict=True)
    mark = Points(
        tone=tone,
        label=f"{label} ({len(places)})",
        panel=panel,
        x=tuple(place.depth for place in places),
        y=values,
        shape=shape,
        notes=tuple(f"{printable(place.layer.name, 80)}: {label} = {value:.3g}" for place, value in labelled),
        rows=tuple(place.row for place in places),
    )
    return [mark]


def verdict_points(
    report: Report,
    places: Sequence[PlacedLayer],
    at: Callable[[PlacedLayer], tuple[float, float]],
    *,
    note: Callable[[LayerReport], str],
    ends: Callable[[LayerReport], tuple[float, float]] | None = None,
) -> Iterator[Mark]:
    """Points of layers: one mark per verdict and kind, so that color and shape show both."""
    findings = group_by_layer(report.findings)
    kinds = {point_shape(place.layer.ref)[1] for place in places}
    groups: dict[tuple[str, str, bool, str], list[PlacedLayer]] = {}
    for place in places:
        shape, kind = point_shape(place.layer.ref)
        tone, label = point_verdict(report, place.layer, findings.get(place.layer.name, []))
        label += f", {kind}" if len(kinds) > 1 else ""
        hollow = tone == "quiet" or is_alpha_doubtful(report, place.layer)
        label += ", α doubtful" if hollow and tone != "quiet" else ""
        groups.setdefault((tone, label, hollow, shape), []).append(place)
    for (tone, label, hollow, shape), members in sorted(groups.items(), key=lambda pair: TONE_ORDER.index(pair[0][0])):
        coordinates = [at(place) for place in members]
        intervals: tuple[Numbers, Numbers] = ((), ())
        if ends is not None:
            low, high = zip(*(ends(place.layer) for place in members), strict=True)
            intervals = (low, high)
        yield Points(
            tone=tone,
            label=f"{label} ({len(members)})",
            x=tuple(x for x, _ in coordinates),
            y=tuple(y for _, y in coordinates),
            low=intervals[0],
            high=intervals[1],
            shape=shape,
            hollow=hollow,
            grave=tone not in CALM_TONES,
            notes=tuple(f"{printable(place.layer.name, 80)}: {note(place.layer)}" for place in members),
            rows=tuple(place.row for place in members),
        )


def point_verdict(report: Report, layer: LayerReport, findings: Sequence[Finding]) -> tuple[str, str]:
    """(tone, label) of a layer's point: its most severe verdict on α, or why there is none."""
    warnings = [f for f in findings if SEVERITIES.index(f.severity) > 0]
    for finding in sorted(warnings, key=lambda f: f.code not in VERDICT_TONES):
        return VERDICT_TONES.get(finding.code, "other"), f"{printable(finding.code, 20)} {printable(finding.title, 40)}"
    return ("quiet", NO_VERDICT_LABEL) if is_alpha_doubtful(report, layer) else ("good", "no warning")


def is_alpha_doubtful(report: Report, layer: LayerReport) -> bool:
    """Does the layer have an α that is too uncertain for a verdict?"""
    fitted = "alpha" in layer.metrics and "power_law" in layer.parts["weight"].fits
    return fitted and bool(doubt(layer, report.settings))
