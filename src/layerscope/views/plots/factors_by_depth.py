"""What comes in, what comes back, and their product, layer by layer: where a signal fades or explodes."""

from __future__ import annotations

from layerscope.report import Report
from layerscope.views.plots import _layers
from layerscope.views.plots._marks import Axis, Mark, Picture, Points
from layerscope.views.plots._pen import draw as draw
from layerscope.views.text import plural, printable

SCOPE = "model"
SERIES = (
    (0, "lambda_max_x", "inputs, λmax(Sx)", "series0", "circle"),
    (1, "lambda_max_d", "output-gradients, λmax(Sd)", "series1", "square"),
    (2, "lambda_max_fim", "their product", "series2", "diamond"),
)
PANELS = (Axis("λmax(Sx)", "log"), Axis("λmax(Sd)", "log"), Axis("product", "log"))


def data(report: Report) -> Picture:
    """λmax of both factors of each layer's Fisher block and of the block, in the model's order, on logarithmic axes."""
    layers = _layers.analysed(report)
    marks: list[Mark] = [mark for series in SERIES if (mark := _points(layers, *series)) is not None]
    how = report.meta.get("conditioning", {})
    fisher = f", {printable(how.get('fisher', ''), 20)} Fisher" if how else ""
    empty = "" if marks else "no data ran through the model (layerscope.conditioning)"
    about = f"{plural(len(layers), 'layer')}{fisher}"
    title = "The two factors of each layer"
    return Picture("factors_by_depth", title, about, _layers.depth_axis(layers), PANELS, tuple(marks), empty=empty)


def _points(layers: list[_layers.Placed], panel: int, metric: str, label: str, tone: str, shape: str) -> Points | None:
    places = [place for place in layers if float(place.layer.metrics.get(metric, 0.0)) > 0]
    if not places:
        return None
    values = tuple(float(place.layer.metrics[metric]) for place in places)
    return Points(
        tone=tone,
        label=f"{label} ({len(places)})",
        panel=panel,
        x=tuple(place.depth for place in places),
        y=values,
        shape=shape,
        notes=tuple(
            f"{printable(place.layer.name, 80)}: {value:.3g}" for place, value in zip(places, values, strict=True)
        ),
        rows=tuple(place.row for place in places),
    )
