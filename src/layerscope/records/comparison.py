"""The comparison of several reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from layerscope.records.findings import Finding
from layerscope.records.layers import Value
from layerscope.records.report import Report
from layerscope.records.viewable import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Matrix = tuple[tuple[float | None, ...], ...]  # symmetric; None if there is no value


@dataclass(frozen=True)
class ComparedLayer:
    """One layer that all compared models have."""

    name: str
    metrics: tuple[Mapping[str, Value], ...]  # one mapping per model
    distances: tuple[Mapping[str, float], ...] = ()  # of each model from the first; empty if not measured
    rows: tuple[int, ...] = ()  # index of the layer in the report of each model
    doubtful: tuple[bool, ...] = ()  # one per model: α does not support a verdict


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Viewable):
    """A comparison of several models, with layers matched by name and distances from the first model."""

    names: tuple[str, ...]  # short, distinct names of the models
    reports: tuple[Report, ...]
    layers: tuple[ComparedLayer, ...]
    unmatched: tuple[tuple[str, ...], ...]  # analyzed layers of each model that another model lacks
    histogram: Mapping[str, Any]  # histogram of α: "edges" (bins + 1) and "counts" (one list per model)
    reading: tuple[str, ...]  # conclusions as sentences
    warnings: tuple[str, ...]  # reasons to be careful with the comparison
    regressions: tuple[tuple[Finding, ...], ...] = ()  # one tuple per model: what got worse since the first
    apart: Mapping[str, Matrix] = field(default_factory=dict)  # matrices "weights" and "spectra", a row per model

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters A, B, C, … that stand for the models in ``reading``."""
        return letters(len(self.names))

    def frame(self) -> pd.DataFrame:
        """Return a data frame with one row per matched layer: metrics of each model, distances from the first.

        Requires pandas.
        """
        return self._frame()

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain JSON types."""
        return self._as_dict()

    def plot(self, name: str = "alpha_histogram", *layers: str | int, ax: Axes | None = None) -> Figure:
        """Draw a picture as a matplotlib figure; see :meth:`Report.plot`."""
        return self._figure(name, *layers, ax=ax)

    def _repr_html_(self) -> str:
        return self._notebook_cell()


def letters(count: int) -> tuple[str, ...]:
    """Return short names for ``count`` models: A, B, …, Z, then M27, M28, …"""
    return tuple(chr(ord("A") + i) if i < 26 else f"M{i + 1}" for i in range(count))
