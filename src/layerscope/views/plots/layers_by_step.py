"""α, rand_distance, λmax, κ and domination as a heat map: a row a layer, a column a step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from layerscope.records.history import History
from layerscope.text import elide, plural, printable
from layerscope.views.plots import run_lines
from layerscope.views.plots.marks import Axis, Cells, Picture, numbers
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "run", "run"
STEPS, LAYERS = 60, 80  # columns and rows at most: some of them, the first and the last
LONGEST = 32


def data(runs: Sequence[History]) -> list[Picture]:
    """A picture for each metric of each run."""
    return [_picture(run, metric, axis, len(runs) > 1) for run in runs for metric, axis in run_lines.measured([run])]


def _picture(run: History, metric: str, axis: Axis, several: bool) -> Picture:
    names = run_lines.layers(run, metric)
    rows = [names[i] for i in run_lines.some(len(names), LAYERS)]
    steps = [run.steps[i] for i in run_lines.some(len(run.steps), STEPS)]
    log = axis.scale == "log"
    values = []
    for name in rows:
        found = dict(zip(*run.series(metric, name), strict=True))
        told = [found.get(step, math.nan) for step in steps]
        values.append([math.log10(x) if x > 0 else math.nan for x in told] if log else told)
    known = [x for row in values for x in row if math.isfinite(x)]
    label = f"log₁₀ {axis.label}" if log else axis.label
    cells = Cells(tone="ink", label=label, values=tuple(numbers(row) for row in values), least=min(known, default=0.0),
                  most=max(known, default=1.0), fmt=".2g")  # fmt: skip
    about = f"{plural(len(rows), 'layer')} of {len(names)}, {plural(len(steps), 'step')} of {len(run.steps)}"
    about = f"{elide(printable(run.name), LONGEST)}: {about}" if several else about
    ticks = tuple(f"{step:,}" for step in steps)
    layers = Axis("", "category", tuple(elide(printable(name), LONGEST) for name in rows))
    title = f"{axis.label} by layer and step"
    return Picture("layers_by_step", title, about, Axis("step", "category", ticks), (layers,), (cells,))
