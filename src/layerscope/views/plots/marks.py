"""What a picture consists of: marks on axes, as numbers and words. No pen draws anything that is not said here.

Colours are named by what they mean (a tone of :mod:`~layerscope.views.plots.style`), so that every pen, light or dark,
shows the same thing in the same way.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

JSON_DIGITS = 4  # significant, of a coordinate in JSON
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Axis:
    """One axis: its label with the unit, and its scale."""

    label: str
    scale: str = "linear"  # linear, log, category: 0, 1, 2, … are the ``ticks``, or none: not drawn
    ticks: tuple[str, ...] = ()  # names of the whole numbers from 0 on
    low: float | None = None  # where it begins and ends; None: where the marks do
    high: float | None = None
    whole: bool = False  # it counts something: only whole numbers are ticks


@dataclass(frozen=True, kw_only=True)
class Mark(ABC):
    """What all marks have."""

    kind: ClassVar[str]
    tone: str  # what its colour means
    label: str = ""  # of the legend; "" for none
    panel: int = 0  # number of the y axis it stands on

    @abstractmethod
    def extent(self, side: str) -> Numbers:
        """Values that it has on the axis "x" or "y"."""


@dataclass(frozen=True, kw_only=True)
class Steps(Mark):
    """A histogram."""

    kind: ClassVar[str] = "steps"
    edges: Numbers  # (b + 1,)
    heights: Numbers  # (b,)
    filled: bool = True
    pattern: int = 0  # of its outline, so that several are told apart in grey: solid, dashed, dotted, both

    def extent(self, side: str) -> Numbers:
        return self.edges if side == "x" else self.heights


@dataclass(frozen=True, kw_only=True)
class Line(Mark):
    """A curve; where y is NaN it is broken."""

    kind: ClassVar[str] = "line"
    x: Numbers
    y: Numbers
    dashed: bool = False

    def extent(self, side: str) -> Numbers:
        return self.x if side == "x" else self.y


@dataclass(frozen=True, kw_only=True)
class Points(Mark):
    """Single values, with intervals and a word about each where there are any."""

    kind: ClassVar[str] = "points"
    x: Numbers
    y: Numbers
    low: Numbers = ()  # ends of the intervals of y
    high: Numbers = ()
    shape: str = "circle"  # circle, square, diamond, triangle, down, cross, tick
    hollow: bool = False  # no verdict
    grave: bool = False  # a warning or an error: larger, with a dark edge, so that grey shows it too
    notes: tuple[str, ...] = ()  # what each one is
    rows: tuple[int, ...] = ()  # of the report, where a point stands for a layer

    def extent(self, side: str) -> Numbers:
        return self.x if side == "x" else (*self.y, *self.low, *self.high)


@dataclass(frozen=True, kw_only=True)
class Rule(Mark):
    """A straight line across the panel."""

    kind: ClassVar[str] = "rule"
    at: float
    along: str = "y"  # the axis it is parallel to
    dashed: bool = True

    def extent(self, side: str) -> Numbers:
        return () if side == self.along else (self.at,)


@dataclass(frozen=True, kw_only=True)
class Band(Mark):
    """A shaded range of one axis; an end that is None is the axis' own."""

    kind: ClassVar[str] = "band"
    low: float | None
    high: float | None
    on: str = "y"

    def extent(self, side: str) -> Numbers:
        return ()


@dataclass(frozen=True, kw_only=True)
class Cells(Mark):
    """A matrix of values on two category axes, row 0 on top; NaN where there is none."""

    kind: ClassVar[str] = "cells"
    values: tuple[Numbers, ...]
    most: float  # value of the lightest colour
    least: float = 0.0  # of the darkest
    fmt: str = ".2f"

    def extent(self, side: str) -> Numbers:
        return ()


@dataclass(frozen=True, kw_only=True)
class Field(Mark):
    """Values on a grid of two numeric axes: coloured cells around their points, NaN hatched, lines of equal value."""

    kind: ClassVar[str] = "field"
    x: Numbers  # (m,)
    y: Numbers  # (n,)
    values: tuple[Numbers, ...]  # (n, m)
    least: float  # value of the darkest colour, and of the lightest: what lies beyond has these
    most: float
    log: bool = False  # are colours those of logarithms?
    shear: float = 0.0  # how far a row lies to the right for each unit of y: axes that are not orthogonal

    def extent(self, side: str) -> Numbers:
        at = self.x if side == "x" else self.y
        half = (at[1] - at[0]) / 2
        if side == "y":
            return (at[0] - half, at[-1] + half)
        low, high = sorted(self.shear * y for y in (self.y[0], self.y[-1]))
        return (at[0] - half + low, at[-1] + half + high)


@dataclass(frozen=True, kw_only=True)
class Surface(Mark):
    """Values on a grid as heights, seen from the side; where there is none it is open. Its axes are those of the view,
    −1 to 1."""

    kind: ClassVar[str] = "surface"
    x: Numbers  # (m,)
    y: Numbers  # (n,)
    values: tuple[Numbers, ...]  # (n, m)
    least: float  # the floor and its colour, and the ceiling: what lies beyond is cut
    most: float
    names: tuple[str, str]  # of the axes
    log: bool = False  # are heights and colours those of logarithms?
    turn: float = 35.0  # of the view, degrees to the right
    tilt: float = 30.0  # degrees from above the horizon

    def extent(self, side: str) -> Numbers:
        return (-1.0, 1.0)


@dataclass(frozen=True)
class Picture:
    """A picture before any pen: its words, its axes, its marks."""

    name: str  # of the plugin
    title: str
    about: str  # how many values it shows, and of what
    x: Axis
    panels: tuple[Axis, ...]  # y axes, from top to bottom, all above the same x
    marks: tuple[Mark, ...] = ()
    notes: tuple[str, ...] = ()  # what is not shown, and why
    empty: str = ""  # why there is nothing to show
    of: str = ""  # the layer, or the model, that it shows

    def mark(self, label: str) -> Any:
        """The first mark whose label begins so."""
        return next(mark for mark in self.marks if mark.label.startswith(label))


def picture_to_json(picture: Picture) -> dict[str, Any]:
    """As JSON types, numbers rounded, defaults left out; NaN becomes None."""
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
    """The inverse of :func:`plain`, but for the digits that it rounds off."""
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
    """As plain floats, however they were computed."""
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
