"""Curves of one layer's inputs, gradients and weight over training, for one or several runs."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.history import History
from layerscope.text import printable
from layerscope.views.plots import run_lines
from layerscope.views.plots.marks import Axis, Mark, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "run layer", "run"
PANELS = (
    (Axis("loss", "log"), ""),
    (Axis("λmax(Sx)", "log"), "lambda_max_x"),
    (Axis("λmax(Sd)", "log"), "lambda_max_d"),
    (Axis("domination", "log"), "domination"),
)


def data(runs: Sequence[History], layer: str) -> Picture:
    """Return the loss, λmax of both factors and the domination (σmax of gradient / σmax of weight) per step."""
    marks: list[Mark] = []
    for run, (label, tone) in zip(runs, run_lines.run_labels(runs), strict=True):
        for panel, (_, metric) in enumerate(PANELS):
            series = run.series(metric, layer) if metric else run.of_model("loss")
            marks += run_lines.run_line(
                series, label if panel == 0 else "", tone=tone, panel=panel, dashed=tone != "series0"
            )
    empty = "" if any(mark.panel for mark in marks) else "this layer was not measured at any step"
    axes = tuple(axis for axis, _ in PANELS)
    title = "Layer during training"
    return Picture(
        "learning_curves",
        title,
        run_lines.describe_runs(runs),
        run_lines.STEP_AXIS,
        axes,
        tuple(marks),
        empty=empty,
        of=printable(layer, 80),
    )
