"""Several reports beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from layerscope.records.layers import Value
from layerscope.records.report import Report
from layerscope.records.viewable import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Matrix = tuple[tuple[float | None, ...], ...]  # symmetric; None where there is no value


@dataclass(frozen=True)
class ComparedLayer:
    """One layer that several models have."""

    name: str
    metrics: tuple[Mapping[str, Value], ...]  # of each model
    distances: tuple[Mapping[str, float], ...] = ()  # of each model from the first; empty where they were not measured
    rows: tuple[int, ...] = ()  # of each model's report
    doubtful: tuple[bool, ...] = ()  # of each model: α carries no verdict


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Viewable):
    """Several models beside each other, layers matched by name, distances from the first."""

    names: tuple[str, ...]  # short names, distinct
    reports: tuple[Report, ...]
    layers: tuple[ComparedLayer, ...]
    unmatched: tuple[tuple[str, ...], ...]  # analysed layers of each model that another one lacks
    histogram: Mapping[str, Any]  # of α: "edges" (bins + 1) and "counts", a list per model
    reading: tuple[str, ...]  # what it says, in plain language
    warnings: tuple[str, ...]  # why to be careful with it
    apart: Mapping[str, Matrix] = field(default_factory=dict)  # "weights", "spectra": a row for each model

    @property
    def letters(self) -> tuple[str, ...]:
        """A, B, C, … by which the reading calls the models."""
        return letters(len(self.names))

    def frame(self) -> pd.DataFrame:
        """One row per matched layer: metrics of each model, distances from the first; needs pandas."""
        return self._frame()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return self._as_dict()

    def plot(self, name: str = "alpha_histogram", *layers: str | int, ax: Axes | None = None) -> Figure:
        """A picture as a matplotlib figure; see :meth:`Report.plot`."""
        return self._figure(name, *layers, ax=ax)

    def _repr_html_(self) -> str:
        return self._notebook_cell()


def letters(count: int) -> tuple[str, ...]:
    """A, B, …, Z, then M27, M28, …"""
    return tuple(chr(ord("A") + i) if i < 26 else f"M{i + 1}" for i in range(count))
