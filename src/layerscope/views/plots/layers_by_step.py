"""Heat maps of a run's metrics, with one row per layer and one column per training step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from layerscope.records.history import History
from layerscope.text import elide, plural, printable
from layerscope.views.plots import run_lines
from layerscope.views.plots.marks import Axis, Cells, Picture, to_floats
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "run", "run"
MAX_STEPS, MAX_LAYERS = 60, 80  # maximum number of columns and rows; longer runs are thinned evenly
MAX_NAME_CHARS = 32


def data(runs: Sequence[History]) -> list[Picture]:
    """Return a picture for each metric of each run."""
    return [
        _metric_picture(run, metric, axis, len(runs) > 1)
        for run in runs
        for metric, axis in run_lines.measured_metrics([run])
    ]


def _metric_picture(run: History, metric: str, axis: Axis, several: bool) -> Picture:
    names = run_lines.layers_with_metric(run, metric)
    rows = [names[i] for i in run_lines.spread_indices(len(names), MAX_LAYERS)]
    steps = [run.steps[i] for i in run_lines.spread_indices(len(run.steps), MAX_STEPS)]
    log = axis.scale == "log"
    values = []
    for name in rows:
        values_by_step = dict(zip(*run.series(metric, name), strict=True))
        series = [values_by_step.get(step, math.nan) for step in steps]
        values.append([math.log10(x) if x > 0 else math.nan for x in series] if log else series)
    known = [x for row in values for x in row if math.isfinite(x)]
    label = f"log₁₀ {axis.label}" if log else axis.label
    cells = Cells(tone="ink", label=label, values=tuple(to_floats(row) for row in values),
                  least=min(known, default=0.0), most=max(known, default=1.0), fmt=".2g")  # fmt: skip
    about = f"{plural(len(rows), 'layer')} of {len(names)}, {plural(len(steps), 'step')} of {len(run.steps)}"
    about = f"{elide(printable(run.name), MAX_NAME_CHARS)}: {about}" if several else about
    ticks = tuple(f"{step:,}" for step in steps)
    layers = Axis("", "category", tuple(elide(printable(name), MAX_NAME_CHARS) for name in rows))
    title = f"{axis.label} by layer and training step"
    return Picture("layers_by_step", title, about, Axis("training step", "category", ticks), (layers,), (cells,))
