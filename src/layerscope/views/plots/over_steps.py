"""Metrics over the steps of a run, with one line per layer; for several runs, the mean over the layers of each run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from layerscope.records.history import History
from layerscope.text import elide, plural, printable
from layerscope.views.plots import run_lines, style
from layerscope.views.plots.marks import Axis, Mark, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "run", "run"
MAX_LINES = 12  # layers with a line each: the first, the last and evenly spaced ones


def data(runs: Sequence[History]) -> list[Picture]:
    """Return a picture for each metric that was measured."""
    return [_metric_picture(runs, metric, axis) for metric, axis in run_lines.measured_metrics(runs)]


def _metric_picture(runs: Sequence[History], metric: str, axis: Axis) -> Picture:
    log, marks = axis.scale == "log", list[Mark]()
    if len(runs) == 1:
        names = run_lines.layers_with_metric(runs[0], metric)
        shown = [names[i] for i in run_lines.spread_indices(len(names), MAX_LINES)]
        for number, name in enumerate(shown):
            tone, label = style.series_tone(number), elide(printable(name), run_lines.MAX_NAME_CHARS)
            marks += run_lines.run_line(
                runs[0].series(metric, name), label, tone=tone, panel=0, dashed=number > 7, log=log
            )
        about = f"{len(shown)} of {plural(len(names), 'layer')}, {run_lines.describe_runs(runs)}"
    else:
        for run, (label, tone) in zip(runs, run_lines.run_labels(runs), strict=True):
            marks += run_lines.run_line(_mean_over_layers(run, metric), label, tone=tone, panel=0, log=log)
        about = f"mean over the layers, {run_lines.describe_runs(runs)}"
    return Picture("over_steps", f"{axis.label} during training", about, run_lines.STEP_AXIS, (axis,), tuple(marks))


def _mean_over_layers(run: History, metric: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    values_by_layer = [
        dict(zip(*run.series(metric, name), strict=True)) for name in run_lines.layers_with_metric(run, metric)
    ]
    steps = [step for step in run.steps if any(step in values for values in values_by_layer)]
    means = [statistics.fmean(values[step] for values in values_by_layer if step in values) for step in steps]
    return tuple(steps), tuple(means)
