"""Largest eigenvalues of layer inputs and output gradients by depth: show where a signal vanishes or explodes."""

from __future__ import annotations

from layerscope.records.report import Report
from layerscope.text import plural, printable
from layerscope.views.plots import layer_axis
from layerscope.views.plots.marks import Axis, Mark, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "model", "learning"
SERIES = (
    ("lambda_max_x", "layer inputs, λmax(Sx)", "series0", "circle"),
    ("lambda_max_d", "output gradients, λmax(Sd)", "series1", "square"),
    ("lambda_max_fim", "product of the two", "series2", "diamond"),
)
PANELS = (Axis("λmax(Sx)", "log"), Axis("λmax(Sd)", "log"), Axis("product", "log"))


def data(report: Report) -> Picture:
    """Return λmax of both factors of each layer's Fisher block and of their product, in model order."""
    layers = layer_axis.place_analyzed_layers(report)
    marks: list[Mark] = []
    for panel, (metric, label, tone, shape) in enumerate(SERIES):
        marks += layer_axis.metric_points(layers, metric, label, tone=tone, shape=shape, panel=panel, least=0.0)
    how = report.meta.get("conditioning", {})
    fisher = f", {printable(how.get('fisher', ''), 20)} Fisher" if how else ""
    empty = "" if marks else "not measured: the model was not run on data (layerscope.conditioning)"
    about = f"{plural(len(layers), 'layer')}{fisher}"
    title = "λmax of layer inputs and output gradients by depth"
    return Picture("factors_by_depth", title, about, layer_axis.depth_axis(layers), PANELS, tuple(marks), empty=empty)
