"""α-hat, norms and stable rank of each layer, in the model's order."""

from __future__ import annotations

from layerscope.report import Report
from layerscope.views.plots import _layers
from layerscope.views.plots._marks import Axis, Mark, Picture
from layerscope.views.plots._pen import draw as draw
from layerscope.views.text import plural

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
    """Three panels over one axis of layers: α-hat, the two norms, and how many directions share the layer."""
    layers = _layers.analysed(report)
    marks: list[Mark] = []
    for panel, (_, metrics) in enumerate(PANELS):
        for metric, label, tone, shape in metrics:
            marks += _layers.series(layers, metric, label, tone=tone, shape=shape, panel=panel)
    return Picture(
        "norms_by_depth",
        "α-hat, norms and stable rank by depth",
        plural(len(layers), "layer"),
        _layers.depth_axis(layers),
        tuple(axis for axis, _ in PANELS),
        tuple(marks),
        empty="" if marks else _layers.why_empty(report, "log_norm"),
    )
