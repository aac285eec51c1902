"""α-hat, norms and stable rank of each layer, in model order."""

from __future__ import annotations

from layerscope.records.report import Report
from layerscope.text import plural
from layerscope.views.plots import layer_axis
from layerscope.views.plots.marks import Axis, Mark, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "model", "model"
PANELS = (
    (Axis("α-hat = α·log₁₀ λmax"), (("alpha_weighted", "α-hat", "good", "circle"),)),
    (
        Axis("log₁₀ of W²"),
        (("log_norm", "‖W‖²F", "series2", "square"), ("log_spectral_norm", "λmax", "series1", "diamond")),
    ),
    (Axis("stable rank", "log"), (("stable_rank", "‖W‖²F / λmax", "under", "triangle"),)),
)


def data(report: Report) -> Picture:
    """Return three panels over a common layer axis: α-hat, the two norms and the stable rank."""
    layers = layer_axis.place_analyzed_layers(report)
    marks: list[Mark] = []
    for panel, (_, metrics) in enumerate(PANELS):
        for metric, label, tone, shape in metrics:
            marks += layer_axis.metric_points(layers, metric, label, tone=tone, shape=shape, panel=panel)
    return Picture(
        "norms_by_depth",
        "α-hat, norms and stable rank by depth",
        plural(len(layers), "layer"),
        layer_axis.depth_axis(layers),
        tuple(axis for axis, _ in PANELS),
        tuple(marks),
        empty="" if marks else layer_axis.why_empty(report, "log_norm"),
    )
