"""What the pictures of runs share: a line per run over the steps of its training."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.history import History, Series
from layerscope.text import elide, printable
from layerscope.views.plots import style
from layerscope.views.plots.marks import Axis, Line, Mark, Points

STEP_AXIS = Axis("step")
MAX_POINTS = 60  # values up to which each is a point too
MAX_NAME_CHARS = 24


def run_line(
    series: Series, label: str, *, tone: str, panel: int, dashed: bool = False, log: bool = True
) -> list[Mark]:
    """A line through the values of a run, with a point on each where they are few; nothing where there is none."""
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


RUN_METRICS = (  # that a run is watched by, where they were measured
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
    """Those of these metrics that some layer of every run has, each with its axis."""
    return [(metric, axis) for metric, axis in RUN_METRICS if all(layers_with_metric(run, metric) for run in runs)]


def layers_with_metric(run: History, metric: str) -> list[str]:
    """Layers that have a metric at some step, in the order of the model."""
    measured_names = {row.name for report in run.reports for row in report.rows if metric in row.metrics}
    order = dict.fromkeys(row.name for report in run.reports for row in report.rows)
    return [name for name in order if name in measured_names]


def spread_indices(count: int, most: int) -> list[int]:
    """At most so many of 0, …, count − 1: the first, the last, the others evenly between."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


POINT_SHAPES = ("circle", "square", "diamond", "triangle")


def run_labels(runs: Sequence[History]) -> list[tuple[str, str]]:
    """(label, tone) of each run."""
    return [(elide(printable(run.name), MAX_NAME_CHARS), style.series_tone(i)) for i, run in enumerate(runs)]


def describe_runs(runs: Sequence[History]) -> str:
    """How many steps of how many runs."""
    steps = f"{sum(len(run.steps) for run in runs):,} measurements"
    return steps if len(runs) == 1 else f"{len(runs)} runs, {steps}"
