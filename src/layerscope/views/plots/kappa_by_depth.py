"""Condition numbers of what comes in and of what comes back, layer by layer."""

from __future__ import annotations

from layerscope.report import Report
from layerscope.views.plots import _layers
from layerscope.views.plots._marks import Axis, Mark, Picture, Points
from layerscope.views.plots._pen import draw as draw
from layerscope.views.text import plural, printable

SCOPE = "model"
SHARES = ((50, "circle"), (80, "square"), (100, "diamond"))
FACTORS = (("x", "Sx, inputs"), ("d", "Sd, output-gradients"))


def data(report: Report) -> Picture:
    """κ₅₀, κ₈₀ and κ₁₀₀ of both factors; where one has no value the layer has too few directions for it."""
    layers = _layers.analysed(report)
    marks: list[Mark] = []
    for panel, (suffix, _) in enumerate(FACTORS):
        for i, (share, shape) in enumerate(SHARES):
            places = [place for place in layers if f"kappa_{share}_{suffix}" in place.layer.metrics]
            if places:
                marks.append(_points(places, f"kappa_{share}_{suffix}", f"κ{share} {suffix}", i, shape, panel))
    panels = tuple(Axis(f"κ of {what}", "log") for _, what in FACTORS)
    empty = "" if marks else "no data ran through the model (layerscope.conditioning), or too few rows"
    about = plural(len(layers), "layer")
    return Picture(
        "kappa_by_depth", "Conditioning by depth", about, _layers.depth_axis(layers), panels, tuple(marks), empty=empty
    )


def _points(places: list[_layers.Placed], metric: str, label: str, tone: int, shape: str, panel: int) -> Points:
    values = tuple(float(place.layer.metrics[metric]) for place in places)
    return Points(
        tone=f"series{tone}",
        label=f"{label} ({len(places)})",
        panel=panel,
        x=tuple(place.depth for place in places),
        y=values,
        shape=shape,
        notes=tuple(
            f"{printable(place.layer.name, 80)}: {label} = {value:.3g}"
            for place, value in zip(places, values, strict=True)
        ),
        rows=tuple(place.row for place in places),
    )
