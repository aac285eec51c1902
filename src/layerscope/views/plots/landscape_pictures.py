"""Plots of the landscape lens: lines, planes, surfaces, and matrices and dendrograms of distances and barriers."""

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
from layerscope.views.plots.marks import Axis, Cells, Field, Line, Mark, Picture, Points, Rule, Surface, to_floats

MAX_NAME_CHARS = 24
MIN_LOG_RATIO = 10.0  # ratio of the largest to the smallest value above which the color scale is logarithmic
MAX_LOSS_QUANTILE = 0.9  # the color scale of a loss ends at this quantile; higher losses share one color


def pictures_of(record: Any, *arguments: Any, **options: Any) -> list[Picture]:
    """Build all plots of a landscape result; the arguments are those of its ``plot`` method."""
    if isinstance(record, LineRecord):
        return [line_picture([record, *arguments])]
    if isinstance(record, Plane):
        return [_plane_or_surface(record, *arguments, **options)]
    if isinstance(record, Distances):
        return [distance_matrix(record, *arguments), distance_tree(record)]
    return [barrier_matrix(record, *arguments), barrier_tree(record)]


def _plane_or_surface(record: Plane, metric: str, coordinates: str, surface: bool) -> Picture:
    return surface_picture(record, metric) if surface else plane_picture(record, metric, coordinates)


def line_picture(lines: Sequence[LineRecord], metrics: Sequence[str] = ()) -> Picture:
    """Plot metrics along one or more lines, with one panel for each metric."""
    shown = list(metrics) or list(lines[0].metrics)
    marks: list[Mark] = []
    for number, record in enumerate(lines):
        same_label_count = sum(line_label(earlier) == line_label(record) for earlier in lines[:number])
        legend = line_label(record) + (f" ({same_label_count + 1})" if same_label_count else "")
        for panel, metric in enumerate(shown):
            tone = style.series_tone(number)
            x, y = to_floats(record.t), to_floats(record.metrics[metric])
            marks.append(
                Line(tone=tone, label=legend if not panel else "", panel=panel, x=x, y=y, dashed=number % 2 == 1)
            )
            error = record.errors(metric)
            measured = [(a, b, float(c)) for a, b, c in zip(x, y, error, strict=True) if math.isfinite(b)]
            if len(measured) <= 40:
                known = bool(measured) and all(math.isfinite(c) for *_, c in measured)
                positions, heights = to_floats(a for a, *_ in measured), to_floats(b for _, b, _ in measured)
                ends = [to_floats(b + sign * c for _, b, c in measured) if known else () for sign in (-1, 1)]
                notes = tuple(
                    f"t = {a:.2f}: {printable(metric, 40)} {b:.4g}{f' ± {c:.2g}' if known else ''}"
                    for a, b, c in measured
                )
                marks.append(
                    Points(tone=tone, panel=panel, x=positions, y=heights, low=ends[0], high=ends[1], notes=notes)
                )
    marks += [Rule(tone="quiet", at=positions, panel=panel) for positions in (0.0, 1.0) for panel in range(len(shown))]
    highest = lines[0].barrier()
    barrier = f", loss barrier {highest.value:.3g}" if len(lines) == 1 and math.isfinite(highest.value) else ""
    about = f"{plural(len(lines[0].t), 'point')}{barrier}, {_format_options(lines[0].about)}"
    panels = tuple(Axis(printable(metric, 40)) for metric in shown)
    holes = tuple(f"{plural(sum(record.holes.values()), 'point')} without a value" for record in lines if record.holes)
    return Picture("line", "Metrics along the line between models", about, Axis("t"), panels, tuple(marks), notes=holes)


def line_label(line: LineRecord) -> str:
    """Label of a line: the names of its ends, and the kind of path unless it is straight."""
    path = f", {line.about['path']}" if "path" in line.about else ""
    return " → ".join(elide(printable(name), MAX_NAME_CHARS) for name in line.names) + path


def plane_picture(record: Plane, metric: str = "", coordinates: str = "affine") -> Picture:
    """Plot one metric on a plane, with the models, the best point and the path of a training run marked.

    :param coordinates: "affine" draws u and v as orthogonal axes; "orthonormal" shows true angles, in weight units.
    :raises UnknownName: if there is no such kind of coordinates or no such metric.
    :raises UsageError: if no point has a value, or if the models are collinear and coordinates are "orthonormal".
    """
    if coordinates not in ("affine", "orthonormal"):
        raise UnknownName("coordinates", coordinates, ("affine", "orthonormal"))
    orthonormal = coordinates == "orthonormal"
    if orthonormal and not np.isfinite(record.corners).all():
        raise UsageError(
            'coordinates="orthonormal": the three models lie on a line, so they span no plane; use "affine"'
        )
    metric, values, least, most = _metric_values_and_range(record, metric)
    (_, _), (b, _), (cx, cy) = record.corners if orthonormal else ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))

    def to_axes(u: float, v: float) -> tuple[float, float]:
        return float(u * b + v * cx), float(v * cy)

    rows = tuple(to_floats(row) for row in values)
    field = Field(tone="ink", label=printable(metric, 40), x=to_floats(record.u * b), y=to_floats(record.v * cy),
                  least=least, most=most, values=rows, shear=float(cx / cy),
                  log=_needs_log_colors(metric, least, most))  # fmt: skip
    finite = values[np.isfinite(values)]
    best, u, v = record.best(metric)
    marks: list[Mark] = [field]
    for number, (p, q) in enumerate(((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))):
        if _is_inside(record, p, q) and (record.track is None or not number):
            name, (across, up) = elide(printable(record.names[number]), MAX_NAME_CHARS), to_axes(p, q)
            marks.append(
                Points(tone=style.series_tone(number + 1), label=name, x=(across,), y=(up,), grave=True, notes=(name,))
            )
    note = f"best {metric} {best:.4g} at u = {u:.2f}, v = {v:.2f}"
    marks += _track_marks(record.track, to_axes)
    across, up = to_axes(u, v)
    marks.append(Points(tone="bad", label="best", x=(across,), y=(up,), shape="cross", notes=(note,)))
    angle = (
        f"; the angle between u and v at {printable(record.names[0], MAX_NAME_CHARS)} is {record.angle:.0f}°"
        if math.isfinite(record.angle) and record.track is None
        else ""
    )
    about = f"{len(record.u)} × {len(record.v)} points, {_format_options(record.about)}{angle}"
    holes = tuple([f"{plural(sum(record.holes.values()), 'point')} without a value (hatched)"] if record.holes else [])
    notes = (
        *holes,
        *([f"losses above {most:.3g} share one color"] if metric != "accuracy" and most < finite.max() else []),
    )
    if record.track is not None:
        shares = f"the plane explains {sum(record.track.shares):.0%} of the run's variance"
        notes = (*notes, f"{shares}; its loss differs from that of the checkpoints by up to {record.track.gap:.2g}")
    title = f"Best {printable(metric, 40)} {best:.4g}"
    axis_u, axis_v = (Axis(f"{name}: toward {elide(printable(to), MAX_NAME_CHARS)}")
                      for name, to in (("u", record.names[1]), ("v", record.names[2])))  # fmt: skip
    if orthonormal:
        axis_u, axis_v = Axis("distance along u, in weight units"), Axis("distance perpendicular to u")
    return Picture("plane", title, about, axis_u, (axis_v,), tuple(marks), notes=notes)


def surface_picture(record: Plane, metric: str = "") -> Picture:
    """Plot one metric on a plane as a surface in perspective, with the metric as its height."""
    metric, values, least, most = _metric_values_and_range(record, metric)
    names = (
        f"u: {elide(printable(record.names[1]), MAX_NAME_CHARS)}",
        f"v: {elide(printable(record.names[2]), MAX_NAME_CHARS)}",
    )
    mark = Surface(tone="ink", label=printable(metric, 40), x=to_floats(record.u), y=to_floats(record.v), least=least,
                   most=most, values=tuple(to_floats(row) for row in values), names=names,
                   log=_needs_log_colors(metric, least, most))  # fmt: skip
    cut = (
        ""
        if most >= float(np.nanmax(np.where(np.isfinite(values), values, -math.inf)))
        else f"values cut off at {most:.3g}"
    )
    about = ", ".join(filter(None, (f"{len(record.u)} × {len(record.v)} points", _format_options(record.about), cut)))
    axis = Axis("", "none")
    return Picture("surface", f"Surface of the {printable(metric, 40)}", about, axis, (axis,), (mark,))


def _needs_log_colors(metric: str, least: float, most: float) -> bool:
    """Whether a linear color scale would give most of the plane one color."""
    return metric != "accuracy" and 0 < MIN_LOG_RATIO * least < most


def _metric_values_and_range(record: Plane, metric: str) -> tuple[str, Any, float, float]:
    """Return (metric, its values, start and end of its color scale); the scale excludes the highest losses."""
    metric = metric or ("accuracy" if "accuracy" in record.metrics else next(iter(record.metrics)))
    if metric not in record.metrics:
        raise UnknownName("metric", metric, record.metrics)
    values = record.metrics[metric]
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise UsageError(f"metric={metric!r}: no point of the plane has a finite value; try another range of u and v")
    highest = float(finite.max()) if metric == "accuracy" else float(np.quantile(finite, MAX_LOSS_QUANTILE))
    return metric, values, float(finite.min()), highest


def _track_marks(track: Track | None, at: Any) -> list[Mark]:
    """Build the marks of a training run: its path, and one point for each checkpoint."""
    if track is None:
        return []
    x, y = (to_floats(side) for side in zip(*(at(*place) for place in track.where), strict=True))
    checkpoints = zip(track.names, track.losses, track.below, track.off, strict=True)
    notes = tuple(
        f"{elide(printable(name), MAX_NAME_CHARS)}: loss {loss:.3g}; "
        f"loss on the plane {below:.3g}; distance from the plane {off:.3g}"
        for name, loss, below, off in checkpoints
    )
    return [Line(tone="bad", label="training run", x=x, y=y), Points(tone="bad", x=x, y=y, hollow=True, notes=notes)]


def distance_matrix(record: Distances, kind: str = "l2") -> Picture:
    """Plot a matrix of distances between all pairs of models, ordered so that close models are adjacent."""
    from scipy.cluster.hierarchy import leaves_list

    order = [int(i) for i in leaves_list(record.tree)]
    values, names = record.matrix(kind)[np.ix_(order, order)], [record.names[i] for i in order]
    title = f"Distances between models ({kind})"
    return matrix_picture("distances", title, f"{record.params:,} entries", names, values, kind)


def distance_tree(record: Distances) -> Picture:
    """Plot a dendrogram of the models, whose groups join at their mean symmetric distance."""
    label = "symmetric distance (1: unrelated weights)"
    return tree_picture(
        "distance_tree",
        "Which models are close to each other",
        f"{record.params:,} entries",
        record.names,
        record.tree,
        label,
    )


def barrier_tree(record: Basins) -> Picture:
    """Plot a dendrogram of the models; groups that join below the tolerance are basins."""
    about = f"groups join at the largest loss barrier between them, {next(iter(record.barriers))}"
    label = "loss barrier"
    return tree_picture(
        "barrier_tree", "Which models share a basin", about, record.names, record.tree, label, record.tolerance
    )


def tree_picture(
    name: str, title: str, about: str, names: Sequence[str], links: Any, label: str, limit: float | None = None
) -> Picture:  # fmt: skip
    """Plot a dendrogram of SciPy's linkage (M − 1, 4)."""
    from scipy.cluster.hierarchy import dendrogram

    drawn = dendrogram(links, no_plot=True)
    marks: list[Mark] = [
        Line(tone="ink", x=to_floats((x - 5) / 10 for x in across), y=to_floats(up))
        for across, up in zip(drawn["icoord"], drawn["dcoord"], strict=True)
    ]
    if limit is not None:
        marks.append(Rule(tone="bad", at=limit, along="x", label=f"tolerance {limit:.3g}"))
    ticks = tuple(elide(printable(names[i]), MAX_NAME_CHARS) for i in drawn["leaves"])
    return Picture(name, title, about, Axis("", "category", ticks), (Axis(label, low=0.0),), tuple(marks))


def barrier_matrix(record: Basins, way: str = "") -> Picture:
    """Plot a matrix of loss barriers between all pairs of models, grouped by basin."""
    way = way or next(iter(record.barriers))
    if way not in record.barriers:
        raise UnknownName("way", way, record.barriers)
    order = [record.names.index(name) for group in record.clusters for name in group]
    values = record.barriers[way][np.ix_(order, order)]
    names = [record.names[i] for i in order]
    options = _format_options({k: v for k, v in record.about.items() if k != "bn"})
    about = f"{way}, tolerance {record.tolerance:.3g}, {options}"
    return matrix_picture("barriers", "Loss barriers between models", about, names, values, "loss barrier")


def matrix_picture(name: str, title: str, about: str, names: Sequence[str], values: Any, label: str) -> Picture:
    """Plot a square matrix as colored cells with their values."""
    labels = tuple(elide(printable(model), MAX_NAME_CHARS) for model in names)
    finite = [float(x) for row in values for x in row if math.isfinite(x)]
    cells = Cells(
        tone="ink",
        label=label,
        values=tuple(to_floats(row) for row in values),
        most=max(finite, default=1.0) or 1.0,
        fmt=".3g",
    )
    axis = Axis("", "category", labels)
    return Picture(name, title, about, axis, (axis,), (cells,))


def _is_inside(record: Plane, u: float, v: float) -> bool:
    return bool(record.u[0] <= u <= record.u[-1] and record.v[0] <= v <= record.v[-1])


def _format_options(about: Mapping[str, Any]) -> str:
    known = {"examples": "{} examples", "bn": "batch norm: {}", "loss": "loss: {}"}
    return ", ".join(
        known.get(str(k), f"{k}: {{}}").format(printable(v, 40)) for k, v in about.items() if k != "calibration"
    )
