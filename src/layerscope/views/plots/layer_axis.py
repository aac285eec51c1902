"""What the pictures of a whole model share: the layers in order, and what a layer's point looks like."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from layerscope.records.findings import SEVERITIES, Finding
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.rules.tail_evidence import doubt
from layerscope.text import abbreviate, printable
from layerscope.views.headline import by_layer
from layerscope.views.plots.marks import Axis, Mark, Numbers, Points
from layerscope.views.plots.style import shape_of

NAMED = 16  # layers up to which each is named below the axis
LONGEST = 28  # characters of such a name
VERDICTS = {"LS101": "over", "LS102": "under", "LS105": "bad"}  # those that speak about α, and the collapsed
CALM = ("good", "quiet")
ORDER = (*CALM, "other", "over", "under", "bad")  # drawn in this order, the gravest on top
HOLLOW = "no verdict: thin or doubtful"


class Placed(NamedTuple):
    """An analysed layer and where it stands."""

    row: int  # in the report
    depth: float  # its place on the axis of layers
    layer: LayerReport


def analysed(report: Report) -> list[Placed]:
    """The layers that have metrics, in the model's order."""
    rows = [(row, layer) for row, layer in enumerate(report.rows) if not layer.skipped]
    first = 0 if len(rows) <= NAMED else 1
    return [Placed(row, float(depth), layer) for depth, (row, layer) in enumerate(rows, first)]


def depth_axis(layers: Sequence[Placed]) -> Axis:
    """Layers in the model's order: by name where there are few, by number where there are many."""
    if len(layers) <= NAMED:
        names = tuple(abbreviate(printable(place.layer.name), LONGEST) for place in layers)
        return Axis("layer, in the model's order", "category", names)
    return Axis(f"layer, in the model's order (1 to {len(layers)})", low=0.0, high=len(layers) + 1.0, whole=True)


def why_empty(report: Report, what: str) -> str:
    """Why no layer has what the picture shows."""
    if not report.rows:
        return "the report has no layers"
    if all(layer.skipped for layer in report.rows):
        return "no layer was analysed"
    reasons = [layer.absent[what] for layer in report.rows if what in layer.absent]
    common = max(sorted(set(reasons)), key=reasons.count, default="it was not measured")
    return f"no layer has a value: {printable(common, 120)}"


def series(
    layers: Sequence[Placed], metric: str, label: str, *, tone: str, shape: str, panel: int, least: float = -math.inf
) -> list[Mark]:
    """One metric over depth: a mark of the layers that have it above ``least``; nothing where none has."""
    places = [place for place in layers if float(place.layer.metrics.get(metric, -math.inf)) > least]
    if not places:
        return []
    values = tuple(float(place.layer.metrics[metric]) for place in places)
    told = zip(places, values, strict=True)
    mark = Points(
        tone=tone,
        label=f"{label} ({len(places)})",
        panel=panel,
        x=tuple(place.depth for place in places),
        y=values,
        shape=shape,
        notes=tuple(f"{printable(place.layer.name, 80)}: {label} = {value:.3g}" for place, value in told),
        rows=tuple(place.row for place in places),
    )
    return [mark]


def points(
    report: Report,
    places: Sequence[Placed],
    at: Callable[[Placed], tuple[float, float]],
    *,
    note: Callable[[LayerReport], str],
    ends: Callable[[LayerReport], tuple[float, float]] | None = None,
) -> Iterator[Mark]:
    """Points of layers: one mark for each verdict and kind, so that colour and shape say both."""
    findings = by_layer(report.findings)
    kinds = {shape_of(place.layer.ref)[1] for place in places}
    groups: dict[tuple[str, str, bool, str], list[Placed]] = {}
    for place in places:
        shape, kind = shape_of(place.layer.ref)
        tone, label = verdict(report, place.layer, findings.get(place.layer.name, []))
        label += f", {kind}" if len(kinds) > 1 else ""
        hollow = tone == "quiet" or doubtful(report, place.layer)
        label += ", α doubtful" if hollow and tone != "quiet" else ""
        groups.setdefault((tone, label, hollow, shape), []).append(place)
    for (tone, label, hollow, shape), members in sorted(groups.items(), key=lambda pair: ORDER.index(pair[0][0])):
        where = [at(place) for place in members]
        intervals: tuple[Numbers, Numbers] = ((), ())
        if ends is not None:
            low, high = zip(*(ends(place.layer) for place in members), strict=True)
            intervals = (low, high)
        yield Points(
            tone=tone,
            label=f"{label} ({len(members)})",
            x=tuple(x for x, _ in where),
            y=tuple(y for _, y in where),
            low=intervals[0],
            high=intervals[1],
            shape=shape,
            hollow=hollow,
            grave=tone not in CALM,
            notes=tuple(f"{printable(place.layer.name, 80)}: {note(place.layer)}" for place in members),
            rows=tuple(place.row for place in members),
        )


def verdict(report: Report, layer: LayerReport, findings: Sequence[Finding]) -> tuple[str, str]:
    """(tone, label) of a layer's point: its gravest verdict on α, or why it carries none."""
    grave = [f for f in findings if SEVERITIES.index(f.severity) > 0]
    for finding in sorted(grave, key=lambda f: f.code not in VERDICTS):
        return VERDICTS.get(finding.code, "other"), f"{printable(finding.code, 20)} {printable(finding.title, 40)}"
    return ("quiet", HOLLOW) if doubtful(report, layer) else ("good", "no warning")


def doubtful(report: Report, layer: LayerReport) -> bool:
    """Has it an α that carries no verdict?"""
    fitted = "alpha" in layer.metrics and "power_law" in layer.parts["weight"].fits
    return fitted and bool(doubt(layer, report.settings))
