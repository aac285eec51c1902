"""Each layer's α, rand_distance, λmax, κ and domination over the steps of a run, a line a layer; of several runs their
means."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from layerscope.records.history import History
from layerscope.text import elide, plural, printable
from layerscope.views.plots import run_lines, style
from layerscope.views.plots.marks import Axis, Mark, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "run", "run"
MOST = 12  # layers that have a line each: the first, the last, some in between


def data(runs: Sequence[History]) -> list[Picture]:
    """A picture for each metric that was measured."""
    return [_picture(runs, metric, axis) for metric, axis in run_lines.measured(runs)]


def _picture(runs: Sequence[History], metric: str, axis: Axis) -> Picture:
    log, marks = axis.scale == "log", list[Mark]()
    if len(runs) == 1:
        names = run_lines.layers(runs[0], metric)
        shown = [names[i] for i in run_lines.some(len(names), MOST)]
        for number, name in enumerate(shown):
            tone, label = style.series(number), elide(printable(name), run_lines.LONGEST)
            marks += run_lines.line(runs[0].series(metric, name), label, tone=tone, panel=0, dashed=number > 7, log=log)
        about = f"{len(shown)} of {plural(len(names), 'layer')}, {run_lines.about(runs)}"
    else:
        for run, (label, tone) in zip(runs, run_lines.names(runs), strict=True):
            marks += run_lines.line(_mean(run, metric), label, tone=tone, panel=0, log=log)
        about = f"means over the layers, {run_lines.about(runs)}"
    return Picture("over_steps", f"{axis.label} over the run", about, run_lines.STEP, (axis,), tuple(marks))


def _mean(run: History, metric: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    every = [dict(zip(*run.series(metric, name), strict=True)) for name in run_lines.layers(run, metric)]
    steps = [step for step in run.steps if any(step in values for values in every)]
    means = [statistics.fmean(values[step] for values in every if step in values) for step in steps]
    return tuple(steps), tuple(means)
