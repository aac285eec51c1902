"""Phase of training of each layer (one of six), in model order."""

from __future__ import annotations

from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import plural
from layerscope.views.plots import layer_axis
from layerscope.views.plots.marks import Axis, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "model", "model"
PHASES = ("rank-collapse", "random-like", "bleeding-out", "bulk+spikes", "bulk-decay", "heavy-tailed")


def data(report: Report) -> Picture:
    """Return one point per layer at the phase of its spectrum; heavy-tailed is at the top."""
    layers = layer_axis.place_analyzed_layers(report)
    known = [place for place in layers if place.layer.metrics.get("phase") in PHASES]
    counts = [sum(place.layer.metrics["phase"] == phase for place in known) for phase in PHASES]
    return Picture(
        "phases",
        "Phases of training by depth",
        plural(len(known), "layer"),
        layer_axis.depth_axis(layers),
        (Axis("phase", "category", tuple(f"{p} ({n})" for p, n in zip(PHASES, counts, strict=True))),),
        tuple(
            layer_axis.verdict_points(
                report, known, lambda p: (p.depth, float(_phase_number(p.layer))), note=_point_note
            )
        ),
        empty="" if known else layer_axis.why_empty(report, "phase"),
    )


def _phase_number(layer: LayerReport) -> int:
    return PHASES.index(str(layer.metrics["phase"]))


def _point_note(layer: LayerReport) -> str:
    return str(layer.metrics["phase"])
