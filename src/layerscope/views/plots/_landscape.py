"""Pictures of the landscape: lines, planes, matrices of distances and barriers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.views.plots import _style
from layerscope.views.plots._marks import Axis, Cells, Field, Line, Mark, Picture, Points, Rule, numbers
from layerscope.views.text import elide, plural, printable

if TYPE_CHECKING:
    from layerscope.landscape import basins, distances, paths

LONGEST = 24
CLIPPED = 0.9  # quantile of a loss on a plane where its colour ends: what is higher is not told apart


def line(lines: Sequence[paths.Line], metrics: Sequence[str] = ()) -> Picture:
    """Metrics along lines from one model, a panel for each metric."""
    shown = list(metrics) or list(lines[0].metrics)
    marks: list[Mark] = []
    for number, each in enumerate(lines):
        label = " → ".join(elide(printable(name), LONGEST) for name in each.names)
        for panel, metric in enumerate(shown):
            tone = _style.series(number)
            x, y = numbers(each.t), numbers(each.metrics[metric])
            marks.append(
                Line(tone=tone, label=label if not panel else "", panel=panel, x=x, y=y, dashed=number % 2 == 1)
            )
            kept = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
            if len(kept) <= 40:
                at, of = numbers(a for a, _ in kept), numbers(b for _, b in kept)
                notes = tuple(f"t = {a:.2f}: {printable(metric, 40)} {b:.4g}" for a, b in kept)
                marks.append(Points(tone=tone, panel=panel, x=at, y=of, notes=notes))
    marks += [Rule(tone="quiet", at=at, panel=panel) for at in (0.0, 1.0) for panel in range(len(shown))]
    hill = lines[0].barrier()
    barrier = f", barrier {hill.value:.3g}" if len(lines) == 1 and math.isfinite(hill.value) else ""
    about = f"{plural(len(lines[0].t), 'point')}{barrier}, {_how(lines[0].about)}"
    panels = tuple(Axis(printable(metric, 40)) for metric in shown)
    holes = tuple(f"{sum(each.holes.values())} points without a value" for each in lines if each.holes)
    return Picture("line", "Between the models", about, Axis("t"), panels, tuple(marks), notes=holes)


def plane(found: paths.Plane, metric: str = "") -> Picture:
    """A metric on the plane through three models, drawn as if the axes were orthogonal; the best point marked."""
    metric = metric or ("accuracy" if "accuracy" in found.metrics else next(iter(found.metrics)))
    values = found.metrics[metric]
    finite = values[np.isfinite(values)]
    least = float(finite.min())
    most = float(finite.max()) if metric == "accuracy" else float(np.quantile(finite, CLIPPED))
    rows, x, y = tuple(numbers(row) for row in values), numbers(found.u), numbers(found.v)
    field = Field(tone="ink", label=printable(metric, 40), x=x, y=y, least=least, most=most, values=rows)
    best, u, v = found.best(metric)
    corners = [(p, q) for p, q in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)) if _inside(found, p, q)]
    marks: list[Mark] = [field]
    for number, (left, up) in enumerate(corners):
        name = elide(printable(found.names[number]), LONGEST)
        marks.append(Points(tone=_style.series(number + 1), label=name, x=(left,), y=(up,), grave=True, notes=(name,)))
    note = f"best {metric} {best:.4g} at u = {u:.2f}, v = {v:.2f}"
    marks.append(Points(tone="bad", label="best", x=(u,), y=(v,), shape="cross", notes=(note,)))
    angle = (
        f"; the true angle at {printable(found.names[0], LONGEST)} is {found.angle:.0f}°"
        if math.isfinite(found.angle)
        else ""
    )
    about = f"{len(found.u)} × {len(found.v)} points, {_how(found.about)}{angle}"
    holes = tuple([f"{sum(found.holes.values())} points without a value are hatched"] if found.holes else [])
    notes = (
        *holes,
        *([f"loss above {most:.3g} has one colour"] if metric != "accuracy" and most < finite.max() else []),
    )
    title = f"Best {printable(metric, 40)} {best:.4g}"
    axis_u, axis_v = (Axis(f"{name}: towards {elide(printable(to), LONGEST)}")
                      for name, to in (("u", found.names[1]), ("v", found.names[2])))  # fmt: skip
    return Picture("plane", title, about, axis_u, (axis_v,), tuple(marks), notes=notes)


def distance_matrix(found: distances.Distances, kind: str = "l2") -> Picture:
    """Distances of every two models."""
    values = found.matrix(kind)
    return matrix(
        "distances", f"Distances between models ({kind})", f"{found.params:,} entries", found.names, values, kind
    )


def barriers(found: basins.Basins, way: str = "") -> Picture:
    """Barriers between every two models, those of one mountain beside each other."""
    way = way or next(iter(found.barriers))
    order = [found.names.index(name) for group in found.clusters for name in group]
    values = found.barriers[way][np.ix_(order, order)]
    names = [found.names[i] for i in order]
    about = f"{way}, tolerance {found.tolerance:.3g}, {_how(found.about)}"
    return matrix("barriers", "Barriers between models", about, names, values, "barrier of the loss")


def matrix(name: str, title: str, about: str, names: Sequence[str], values: Any, label: str) -> Picture:
    """A square of numbers."""
    labels = tuple(elide(printable(each), LONGEST) for each in names)
    finite = [float(x) for row in values for x in row if math.isfinite(x)]
    cells = Cells(
        tone="ink",
        label=label,
        values=tuple(numbers(row) for row in values),
        most=max(finite, default=1.0) or 1.0,
        fmt=".3g",
    )
    axis = Axis("", "category", labels)
    return Picture(name, title, about, axis, (axis,), (cells,))


def _inside(found: paths.Plane, u: float, v: float) -> bool:
    return bool(found.u[0] <= u <= found.u[-1] and found.v[0] <= v <= found.v[-1])


def _how(about: Mapping[str, Any]) -> str:
    known = {"examples": "{} examples", "bn": "statistics {}", "loss": "{}"}
    return ", ".join(
        known.get(str(k), f"{k} {{}}").format(printable(v, 40)) for k, v in about.items() if k != "calibration"
    )
