"""Pictures of the landscape: lines, planes, matrices of distances and barriers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layerscope.errors import UnknownName, UsageError
from layerscope.records.landscape.basins import Basins
from layerscope.records.landscape.distances import Distances
from layerscope.records.landscape.lines import Line as LineRecord
from layerscope.records.landscape.planes import Plane, Track
from layerscope.text import elide, plural, printable
from layerscope.views.plots import style
from layerscope.views.plots.marks import Axis, Cells, Field, Line, Mark, Picture, Points, Rule, Surface, numbers

LONGEST = 24
DECADE = 10.0  # times that the largest value of a plane is the least where its colours are those of logarithms
CLIPPED = 0.9  # quantile of a loss on a plane where its colour ends: what is higher is not told apart


def pictures_of(record: Any, *arguments: Any, **options: Any) -> list[Picture]:
    """The pictures of a record of the landscape; the arguments are those of its ``plot`` method."""
    if isinstance(record, LineRecord):
        return [line([record, *arguments])]
    if isinstance(record, Plane):
        return [_plane_or_surface(record, *arguments, **options)]
    if isinstance(record, Distances):
        return [distance_matrix(record, *arguments), distance_tree(record)]
    return [barriers(record, *arguments), barrier_tree(record)]


def _plane_or_surface(record: Plane, metric: str, coordinates: str, surface: bool) -> Picture:
    return surface_of(record, metric) if surface else plane(record, metric, coordinates)


def line(lines: Sequence[LineRecord], metrics: Sequence[str] = ()) -> Picture:
    """Metrics along lines from one model, a panel for each metric."""
    shown = list(metrics) or list(lines[0].metrics)
    marks: list[Mark] = []
    for number, each in enumerate(lines):
        same = sum(label(other) == label(each) for other in lines[:number])
        told = label(each) + (f" ({same + 1})" if same else "")
        for panel, metric in enumerate(shown):
            tone = style.series(number)
            x, y = numbers(each.t), numbers(each.metrics[metric])
            marks.append(
                Line(tone=tone, label=told if not panel else "", panel=panel, x=x, y=y, dashed=number % 2 == 1)
            )
            error = each.errors(metric)
            kept = [(a, b, float(c)) for a, b, c in zip(x, y, error, strict=True) if math.isfinite(b)]
            if len(kept) <= 40:
                known = bool(kept) and all(math.isfinite(c) for *_, c in kept)
                at, of = numbers(a for a, *_ in kept), numbers(b for _, b, _ in kept)
                ends = [numbers(b + sign * c for _, b, c in kept) if known else () for sign in (-1, 1)]
                notes = tuple(
                    f"t = {a:.2f}: {printable(metric, 40)} {b:.4g}{f' ± {c:.2g}' if known else ''}" for a, b, c in kept
                )
                marks.append(Points(tone=tone, panel=panel, x=at, y=of, low=ends[0], high=ends[1], notes=notes))
    marks += [Rule(tone="quiet", at=at, panel=panel) for at in (0.0, 1.0) for panel in range(len(shown))]
    hill = lines[0].barrier()
    barrier = f", barrier {hill.value:.3g}" if len(lines) == 1 and math.isfinite(hill.value) else ""
    about = f"{plural(len(lines[0].t), 'point')}{barrier}, {_how(lines[0].about)}"
    panels = tuple(Axis(printable(metric, 40)) for metric in shown)
    holes = tuple(f"{sum(each.holes.values())} points without a value" for each in lines if each.holes)
    return Picture("line", "Between the models", about, Axis("t"), panels, tuple(marks), notes=holes)


def label(line: LineRecord) -> str:
    """From where to where, and on what path where it is not the straight one."""
    path = f", {line.about['path']}" if "path" in line.about else ""
    return " → ".join(elide(printable(name), LONGEST) for name in line.names) + path


def plane(found: Plane, metric: str = "", coordinates: str = "affine") -> Picture:
    """A metric on the plane through three models; the best point and the models marked, and the path of a run.

    :param coordinates: "affine", u and v as if they were orthogonal, or "orthonormal", true angles in weight units.
    :raises UnknownName: others.
    """
    if coordinates not in ("affine", "orthonormal"):
        raise UnknownName("coordinates", coordinates, ("affine", "orthonormal"))
    true = coordinates == "orthonormal"
    if true and not np.isfinite(found.corners).all():
        raise UsageError("the three models lie on a line: their plane has no angles")
    metric, values, least, most = _valued(found, metric)
    (_, _), (b, _), (cx, cy) = found.corners if true else ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))

    def at(u: float, v: float) -> tuple[float, float]:
        return float(u * b + v * cx), float(v * cy)

    rows = tuple(numbers(row) for row in values)
    field = Field(tone="ink", label=printable(metric, 40), x=numbers(found.u * b), y=numbers(found.v * cy), least=least,
                  most=most, values=rows, shear=float(cx / cy), log=_soars(metric, least, most))  # fmt: skip
    finite = values[np.isfinite(values)]
    best, u, v = found.best(metric)
    marks: list[Mark] = [field]
    for number, (p, q) in enumerate(((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))):
        if _inside(found, p, q) and (found.track is None or not number):
            name, (left, up) = elide(printable(found.names[number]), LONGEST), at(p, q)
            marks.append(
                Points(tone=style.series(number + 1), label=name, x=(left,), y=(up,), grave=True, notes=(name,))
            )
    note = f"best {metric} {best:.4g} at u = {u:.2f}, v = {v:.2f}"
    marks += _path(found.track, at)
    left, up = at(u, v)
    marks.append(Points(tone="bad", label="best", x=(left,), y=(up,), shape="cross", notes=(note,)))
    angle = (
        f"; the true angle at {printable(found.names[0], LONGEST)} is {found.angle:.0f}°"
        if math.isfinite(found.angle) and found.track is None
        else ""
    )
    about = f"{len(found.u)} × {len(found.v)} points, {_how(found.about)}{angle}"
    holes = tuple([f"{sum(found.holes.values())} points without a value are hatched"] if found.holes else [])
    notes = (
        *holes,
        *([f"loss above {most:.3g} has one colour"] if metric != "accuracy" and most < finite.max() else []),
    )
    if found.track is not None:
        notes = (*notes, f"the plane explains {sum(found.track.shares):.0%} of the path, and its loss is off by up to "
                 f"{found.track.gap:.2g}")  # fmt: skip
    title = f"Best {printable(metric, 40)} {best:.4g}"
    axis_u, axis_v = (Axis(f"{name}: towards {elide(printable(to), LONGEST)}")
                      for name, to in (("u", found.names[1]), ("v", found.names[2])))  # fmt: skip
    if true:
        axis_u, axis_v = Axis("distance in weight units, along u"), Axis("across it")
    return Picture("plane", title, about, axis_u, (axis_v,), tuple(marks), notes=notes)


def surface_of(found: Plane, metric: str = "") -> Picture:
    """The same as heights, seen from the side."""
    metric, values, least, most = _valued(found, metric)
    names = (f"u: {elide(printable(found.names[1]), LONGEST)}", f"v: {elide(printable(found.names[2]), LONGEST)}")
    mark = Surface(tone="ink", label=printable(metric, 40), x=numbers(found.u), y=numbers(found.v), least=least,
                   most=most, values=tuple(numbers(row) for row in values), names=names,
                   log=_soars(metric, least, most))  # fmt: skip
    cut = "" if most >= float(np.nanmax(np.where(np.isfinite(values), values, -math.inf))) else f"cut at {most:.3g}"
    about = ", ".join(filter(None, (f"{len(found.u)} × {len(found.v)} points", _how(found.about), cut)))
    axis = Axis("", "none")
    return Picture("surface", f"The surface of {printable(metric, 40)}", about, axis, (axis,), (mark,))


def _soars(metric: str, least: float, most: float) -> bool:
    """Would most of a plane have one colour, but for logarithms?"""
    return metric != "accuracy" and 0 < DECADE * least < most


def _valued(found: Plane, metric: str) -> tuple[str, Any, float, float]:
    """(metric, its values, where its colours begin and end): a loss that soars has one colour beyond its bulk."""
    metric = metric or ("accuracy" if "accuracy" in found.metrics else next(iter(found.metrics)))
    if metric not in found.metrics:
        raise UnknownName("metric", metric, found.metrics)
    values = found.metrics[metric]
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise UsageError("every point is a hole")
    most = float(finite.max()) if metric == "accuracy" else float(np.quantile(finite, CLIPPED))
    return metric, values, float(finite.min()), most


def _path(track: Track | None, at: Any) -> list[Mark]:
    """The checkpoints of a run, larger where they are nearer to the plane."""
    if track is None:
        return []
    x, y = (numbers(side) for side in zip(*(at(*place) for place in track.where), strict=True))
    told = zip(track.names, track.losses, track.below, track.off, strict=True)
    notes = tuple(f"{elide(printable(name), LONGEST)}: loss {own:.3g}, {below:.3g} on the plane, {off:.3g} away from it"
                  for name, own, below, off in told)  # fmt: skip
    return [Line(tone="bad", label="the run", x=x, y=y), Points(tone="bad", x=x, y=y, hollow=True, notes=notes)]


def distance_matrix(found: Distances, kind: str = "l2") -> Picture:
    """Distances of every two models, near ones beside each other."""
    from scipy.cluster.hierarchy import leaves_list

    order = [int(i) for i in leaves_list(found.tree)]
    values, names = found.matrix(kind)[np.ix_(order, order)], [found.names[i] for i in order]
    title = f"Distances between models ({kind})"
    return matrix("distances", title, f"{found.params:,} entries", names, values, kind)


def distance_tree(found: Distances) -> Picture:
    """Which models are near: at which distance groups join."""
    label = "symmetric distance: 1 as unrelated vectors"
    return tree("distance_tree", "Which models are near", f"{found.params:,} entries", found.names, found.tree, label)


def barrier_tree(found: Basins) -> Picture:
    """Which models join at which barrier: mountains are what has joined below the tolerance."""
    about = f"largest barrier between the groups, {next(iter(found.barriers))}"
    label = "barrier of the loss"
    return tree(
        "barrier_tree", "Which models are on one mountain", about, found.names, found.tree, label, found.tolerance
    )


def tree(
    name: str, title: str, about: str, names: Sequence[str], links: Any, label: str, limit: float | None = None
) -> Picture:  # fmt: skip
    """A dendrogram of SciPy's linkage (M − 1, 4)."""
    from scipy.cluster.hierarchy import dendrogram

    drawn = dendrogram(links, no_plot=True)
    marks: list[Mark] = [
        Line(tone="ink", x=numbers((x - 5) / 10 for x in across), y=numbers(up))
        for across, up in zip(drawn["icoord"], drawn["dcoord"], strict=True)
    ]
    if limit is not None:
        marks.append(Rule(tone="bad", at=limit, along="x", label=f"tolerance {limit:.3g}"))
    ticks = tuple(elide(printable(names[i]), LONGEST) for i in drawn["leaves"])
    return Picture(name, title, about, Axis("", "category", ticks), (Axis(label, low=0.0),), tuple(marks))


def barriers(found: Basins, way: str = "") -> Picture:
    """Barriers between every two models, those of one mountain beside each other."""
    way = way or next(iter(found.barriers))
    if way not in found.barriers:
        raise UnknownName("way", way, found.barriers)
    order = [found.names.index(name) for group in found.clusters for name in group]
    values = found.barriers[way][np.ix_(order, order)]
    names = [found.names[i] for i in order]
    about = f"{way}, tolerance {found.tolerance:.3g}, {_how({k: v for k, v in found.about.items() if k != 'bn'})}"
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


def _inside(found: Plane, u: float, v: float) -> bool:
    return bool(found.u[0] <= u <= found.u[-1] and found.v[0] <= v <= found.v[-1])


def _how(about: Mapping[str, Any]) -> str:
    known = {"examples": "{} examples", "bn": "statistics {}", "loss": "{}"}
    return ", ".join(
        known.get(str(k), f"{k} {{}}").format(printable(v, 40)) for k, v in about.items() if k != "calibration"
    )
