"""Condition numbers of layer inputs and output gradients by depth."""

from __future__ import annotations

from layerscope.records.report import Report
from layerscope.text import plural
from layerscope.views.plots import layer_axis
from layerscope.views.plots.marks import Axis, Mark, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw
from layerscope.views.plots.style import series_tone

SCOPE, SECTION = "model", "learning"
KAPPA_SHARES = ((50, "circle"), (80, "square"), (100, "diamond"))
FACTORS = (("x", "Sx, inputs"), ("d", "Sd, output gradients"))


def data(report: Report) -> Picture:
    """Return κ₅₀, κ₈₀ and κ₁₀₀ of both factors; a value is missing if the layer has too few directions."""
    layers = layer_axis.place_analyzed_layers(report)
    marks: list[Mark] = []
    for panel, (suffix, _) in enumerate(FACTORS):
        for i, (share, shape) in enumerate(KAPPA_SHARES):
            metric, label = f"kappa_{share}_{suffix}", f"κ{share} {suffix}"
            marks += layer_axis.metric_points(layers, metric, label, tone=series_tone(i), shape=shape, panel=panel)
    panels = tuple(Axis(f"κ of {what}", "log") for _, what in FACTORS)
    empty = "" if marks else "not measured: the model was not run on data (layerscope.conditioning), or on too few rows"
    about = plural(len(layers), "layer")
    return Picture(
        "kappa_by_depth",
        "Condition numbers by depth",
        about,
        layer_axis.depth_axis(layers),
        panels,
        tuple(marks),
        empty=empty,
    )
