"""What the pictures of runs share: a line per run over the steps of its training."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.history import History, Series
from layerscope.views.plots import _style
from layerscope.views.plots._marks import Axis, Line, Mark, Points
from layerscope.views.text import elide, printable

STEP = Axis("step")
FEW = 60  # values up to which each is a point too
LONGEST = 24


def line(series: Series, label: str, *, tone: str, panel: int, dashed: bool = False, log: bool = True) -> list[Mark]:
    """A line through the values of a run, with a point on each where they are few; nothing where there is none."""
    pairs = [(float(step), value) for step, value in zip(*series, strict=True) if value > 0 or not log]
    if not pairs:
        return []
    x, y = (tuple(side) for side in zip(*pairs, strict=True))
    found: list[Mark] = [Line(tone=tone, label=label, panel=panel, x=x, y=y, dashed=dashed)]
    if len(pairs) <= FEW:
        notes = tuple(f"{label}, step {step:.0f}: {value:.3g}" for step, value in pairs)
        found.append(Points(tone=tone, panel=panel, x=x, y=y, shape=SHAPES[panel % len(SHAPES)], notes=notes))
    return found


SHAPES = ("circle", "square", "diamond", "triangle")


def names(runs: Sequence[History]) -> list[tuple[str, str]]:
    """(label, tone) of each run."""
    return [(elide(printable(run.name), LONGEST), _style.series(i)) for i, run in enumerate(runs)]


def about(runs: Sequence[History]) -> str:
    """How many steps of how many runs."""
    steps = f"{sum(len(run.steps) for run in runs):,} measurements"
    return steps if len(runs) == 1 else f"{len(runs)} runs, {steps}"
