"""Description of a plot, independent of the renderer: marks on axes, as numbers and text.

Renderers draw nothing that is not described here. Colors are named by their meaning (a tone of
:mod:`~layerscope.views.plots.style`), so every renderer shows the same plot, on light and dark backgrounds.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

JSON_DIGITS = 4  # significant digits of a coordinate in JSON
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Axis:
    """One axis: its label with the unit, and its scale."""

    label: str
    scale: str = "linear"  # linear, log, category (0, 1, 2, … are named by ``ticks``) or none (not drawn)
    ticks: tuple[str, ...] = ()  # names of the integers from 0 on, for category axes
    low: float | None = None  # limits of the axis; None: the extent of the marks
    high: float | None = None
    whole: bool = False  # only integers are ticks, for axes that count something


@dataclass(frozen=True, kw_only=True)
class Mark(ABC):
    """Base class of all marks."""

    kind: ClassVar[str]
    tone: str  # meaning of the color, a key of the style module
    label: str = ""  # legend entry; "" for none
    panel: int = 0  # index of the panel (y axis)

    @abstractmethod
    def extent(self, side: str) -> Numbers:
        """Return the values that the mark occupies on the axis "x" or "y"."""


@dataclass(frozen=True, kw_only=True)
class Steps(Mark):
    """A histogram."""

    kind: ClassVar[str] = "steps"
    edges: Numbers  # (b + 1,)
    heights: Numbers  # (b,)
    filled: bool = True
    pattern: int = (
        0  # outline style, so that histograms remain distinct in grayscale: solid, dashed, dotted, dash-dotted
    )

    def extent(self, side: str) -> Numbers:
        return self.edges if side == "x" else self.heights


@dataclass(frozen=True, kw_only=True)
class Line(Mark):
    """A curve, interrupted where y is NaN."""

    kind: ClassVar[str] = "line"
    x: Numbers
    y: Numbers
    dashed: bool = False

    def extent(self, side: str) -> Numbers:
        return self.x if side == "x" else self.y


@dataclass(frozen=True, kw_only=True)
class Points(Mark):
    """Single values, optionally with intervals and a tooltip for each."""

    kind: ClassVar[str] = "points"
    x: Numbers
    y: Numbers
    low: Numbers = ()  # lower ends of the intervals of y
    high: Numbers = ()
    shape: str = "circle"  # circle, square, diamond, triangle, down, cross, tick
    hollow: bool = False  # no verdict
    grave: bool = False  # warning or error: larger with a dark edge, to be visible in grayscale
    notes: tuple[str, ...] = ()  # tooltip of each point
    rows: tuple[int, ...] = ()  # row of the report, for points that represent layers

    def extent(self, side: str) -> Numbers:
        return self.x if side == "x" else (*self.y, *self.low, *self.high)


@dataclass(frozen=True, kw_only=True)
class Rule(Mark):
    """A straight line across the panel."""

    kind: ClassVar[str] = "rule"
    at: float
    along: str = "y"  # axis that the line is parallel to
    dashed: bool = True

    def extent(self, side: str) -> Numbers:
        return () if side == self.along else (self.at,)


@dataclass(frozen=True, kw_only=True)
class Band(Mark):
    """A shaded range of one axis; None extends it to the end of the axis."""

    kind: ClassVar[str] = "band"
    low: float | None
    high: float | None
    on: str = "y"

    def extent(self, side: str) -> Numbers:
        return ()


@dataclass(frozen=True, kw_only=True)
class Cells(Mark):
    """A matrix of values on two category axes, with row 0 on top and NaN for missing values."""

    kind: ClassVar[str] = "cells"
    values: tuple[Numbers, ...]
    most: float  # value of the lightest color
    least: float = 0.0  # value of the darkest color
    fmt: str = ".2f"

    def extent(self, side: str) -> Numbers:
        return ()


@dataclass(frozen=True, kw_only=True)
class Field(Mark):
    """Values on a grid of two numeric axes, drawn as colored cells with contour lines; NaN is hatched."""

    kind: ClassVar[str] = "field"
    x: Numbers  # (m,)
    y: Numbers  # (n,)
    values: tuple[Numbers, ...]  # (n, m)
    least: float  # value of the darkest color; ``most`` is that of the lightest, and values beyond are clipped
    most: float
    log: bool = False  # whether the color scale is logarithmic
    shear: float = 0.0  # shift of a row to the right per unit of y, for axes that are not orthogonal

    def extent(self, side: str) -> Numbers:
        at = self.x if side == "x" else self.y
        half = (at[1] - at[0]) / 2
        if side == "y":
            return (at[0] - half, at[-1] + half)
        low, high = sorted(self.shear * y for y in (self.y[0], self.y[-1]))
        return (at[0] - half + low, at[-1] + half + high)


@dataclass(frozen=True, kw_only=True)
class Surface(Mark):
    """Values on a grid as a 3-D surface, with gaps for missing values.

    The surface is projected onto a view with x and y from −1 to 1.
    """

    kind: ClassVar[str] = "surface"
    x: Numbers  # (m,)
    y: Numbers  # (n,)
    values: tuple[Numbers, ...]  # (n, m)
    least: float  # value of the floor; ``most`` is that of the ceiling, and values beyond are clipped
    most: float
    names: tuple[str, str]  # names of the axes
    log: bool = False  # whether heights and colors are logarithmic
    turn: float = 35.0  # rotation of the view to the right, in degrees
    tilt: float = 30.0  # elevation of the view above the horizon, in degrees

    def extent(self, side: str) -> Numbers:
        return (-1.0, 1.0)


@dataclass(frozen=True)
class Picture:
    """A plot before it is drawn: text, axes and marks."""

    name: str  # name of the plugin
    title: str
    about: str  # subtitle: the number and kind of values shown
    x: Axis
    panels: tuple[Axis, ...]  # y axes from top to bottom, sharing one x axis
    marks: tuple[Mark, ...] = ()
    notes: tuple[str, ...] = ()  # remarks on values that are not shown
    empty: str = ""  # reason why there is nothing to show
    of: str = ""  # layer or model that is shown

    def mark(self, label: str) -> Any:
        """Return the first mark with a label that starts with ``label``."""
        return next(mark for mark in self.marks if mark.label.startswith(label))


def picture_to_json(picture: Picture) -> dict[str, Any]:
    """Convert a picture to JSON types: numbers are rounded, defaults are left out, NaN becomes None."""
    return {
        "name": picture.name,
        "title": picture.title,
        "about": picture.about,
        **({"of": picture.of} if picture.of else {}),
        "x": _changed_fields(picture.x),
        "panels": [_changed_fields(axis) for axis in picture.panels],
        "marks": [{"kind": mark.kind, **_changed_fields(mark)} for mark in picture.marks],
        **({"notes": list(picture.notes)} if picture.notes else {}),
        **({"empty": picture.empty} if picture.empty else {}),
    }


def picture_from_json(saved: Mapping[str, Any]) -> Picture:
    """Invert :func:`picture_to_json`, except for the rounded digits."""
    axes = [Axis(**_lists_to_tuples(axis)) for axis in (saved["x"], *saved["panels"])]
    kinds = {cls.kind: cls for cls in (Steps, Line, Points, Rule, Band, Cells, Field, Surface)}
    marks = [
        kinds[mark["kind"]](**_lists_to_tuples({k: v for k, v in mark.items() if k != "kind"}))
        for mark in saved["marks"]
    ]
    words = {name: saved[name] for name in ("name", "title", "about", "of", "empty") if name in saved}
    return Picture(**words, x=axes[0], panels=tuple(axes[1:]), marks=tuple(marks), notes=tuple(saved.get("notes", ())))


def _lists_to_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _nested_tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _nested_tuple(values: list[Any]) -> tuple[Any, ...]:
    return tuple(_nested_tuple(v) if isinstance(v, list) else math.nan if v is None else v for v in values)


def to_floats(values: Iterable[Any]) -> Numbers:
    """Convert numbers of any type to plain floats."""
    return tuple(float(value) for value in values)


def _changed_fields(record: Any) -> dict[str, Any]:
    return {
        field.name: _to_json_types(value)
        for field in dataclasses.fields(record)
        if (value := getattr(record, field.name)) != field.default
    }


def _to_json_types(value: Any) -> Any:
    if isinstance(value, float):
        return _round_coordinate(value)
    return (
        [_to_json_types(item) for item in value]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )


def _round_coordinate(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{JSON_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e6 else short
