"""α-hat, norms and stable rank of each layer, in the model's order."""

from __future__ import annotations

from layerscope.report import Report
from layerscope.types import LayerReport
from layerscope.views.plots import _layers
from layerscope.views.plots._marks import Axis, Mark, Picture, Points
from layerscope.views.plots._pen import draw as draw
from layerscope.views.text import plural, printable

SCOPE = "model"
PANELS = (
    (Axis("α-hat = α·log₁₀ λmax"), (("alpha_weighted", "α-hat", "good", "circle"),)),
    (
        Axis("log₁₀ of W²"),
        (("log_norm", "‖W‖²F", "series2", "square"), ("log_spectral_norm", "λmax", "series1", "diamond")),
    ),
    (Axis("stable rank", "log"), (("stable_rank", "‖W‖²F / λmax", "under", "triangle"),)),
)


def data(report: Report) -> Picture:
    """Three panels over one axis of layers: α-hat, the two norms, and how many directions share the layer."""
    layers = _layers.analysed(report)
    marks: list[Mark] = []
    for panel, (_, series) in enumerate(PANELS):
        for metric, label, tone, shape in series:
            places = [place for place in layers if metric in place.layer.metrics]
            if places:
                marks.append(_points(places, metric, label, tone, shape, panel))
    return Picture(
        "norms_by_depth",
        "α-hat, norms and stable rank by depth",
        plural(len(layers), "layer"),
        _layers.depth_axis(layers),
        tuple(axis for axis, _ in PANELS),
        tuple(marks),
        empty="" if marks else _layers.why_empty(report, "log_norm"),
    )


def _points(places: list[_layers.Placed], metric: str, label: str, tone: str, shape: str, panel: int) -> Points:
    return Points(
        tone=tone,
        label=f"{label} ({len(places)})",
        panel=panel,
        x=tuple(place.depth for place in places),
        y=tuple(_value(place.layer, metric) for place in places),
        shape=shape,
        notes=tuple(
            f"{printable(place.layer.name, 80)}: {label} = {_value(place.layer, metric):.3g}" for place in places
        ),
        rows=tuple(place.row for place in places),
    )


def _value(layer: LayerReport, metric: str) -> float:
    return float(layer.metrics[metric])
