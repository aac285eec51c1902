"""Shared parts of the plots of runs: lines over training steps, metrics and labels."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.history import History, Series
from layerscope.text import elide, plural, printable
from layerscope.views.plots import style
from layerscope.views.plots.marks import Axis, Line, Mark, Points

STEP_AXIS = Axis("training step")
MAX_POINTS = 60  # with more values, the line has no points
MAX_NAME_CHARS = 24


def run_line(
    series: Series, label: str, *, tone: str, panel: int, dashed: bool = False, log: bool = True
) -> list[Mark]:
    """Return a line through the values of a run, with points if there are few; an empty list without values."""
    pairs = [(float(step), value) for step, value in zip(*series, strict=True) if value > 0 or not log]
    if not pairs:
        return []
    x, y = (tuple(side) for side in zip(*pairs, strict=True))
    marks: list[Mark] = [Line(tone=tone, label=label, panel=panel, x=x, y=y, dashed=dashed)]
    if len(pairs) <= MAX_POINTS:
        notes = tuple(f"{label}, step {step:.0f}: {value:.3g}" for step, value in pairs)
        marks.append(
            Points(tone=tone, panel=panel, x=x, y=y, shape=POINT_SHAPES[panel % len(POINT_SHAPES)], notes=notes)
        )
    return marks


RUN_METRICS = (  # metrics shown for runs, if they were measured
    ("alpha", Axis("α")),
    ("rand_distance", Axis("rand_distance")),
    ("stable_rank", Axis("stable rank")),
    ("lambda_max", Axis("λmax", "log")),
    ("lambda_max_x", Axis("λmax(Sx)", "log")),
    ("lambda_max_d", Axis("λmax(Sd)", "log")),
    ("kappa_50_x", Axis("κ₅₀(Sx)", "log")),
    ("domination", Axis("domination", "log")),
)


def measured_metrics(runs: Sequence[History]) -> list[tuple[str, Axis]]:
    """Return the metrics that at least one layer of every run has, each with its axis."""
    return [(metric, axis) for metric, axis in RUN_METRICS if all(layers_with_metric(run, metric) for run in runs)]


def layers_with_metric(run: History, metric: str) -> list[str]:
    """Return the layers that have a metric at any step, in model order."""
    measured_names = {row.name for report in run.reports for row in report.rows if metric in row.metrics}
    order = dict.fromkeys(row.name for report in run.reports for row in report.rows)
    return [name for name in order if name in measured_names]


def spread_indices(count: int, most: int) -> list[int]:
    """Return at most ``most`` of the indices 0, …, count − 1: the first, the last and evenly spaced ones."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


POINT_SHAPES = ("circle", "square", "diamond", "triangle")


def run_labels(runs: Sequence[History]) -> list[tuple[str, str]]:
    """Return (label, tone) for each run."""
    return [(elide(printable(run.name), MAX_NAME_CHARS), style.series_tone(i)) for i, run in enumerate(runs)]


def describe_runs(runs: Sequence[History]) -> str:
    """Return the number of runs and of measured steps, as text."""
    steps = f"{plural(sum(len(run.steps) for run in runs), 'measured step')}"
    return steps if len(runs) == 1 else f"{len(runs)} runs, {steps}"
