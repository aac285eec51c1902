"""What a user holds in the end: a Report, or several in a Comparison; each shows itself in many ways.

The views are imported when they are asked for: a report is data first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import did_you_mean
from layerscope.types import Finding, LayerReport, Matrix, Value

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from layerscope.settings import Settings
    from layerscope.types import Floats


class Layers(Mapping[str, LayerReport]):
    """The layers of a report, by name or by index."""

    def __init__(self, layers: tuple[LayerReport, ...]) -> None:
        self._by_name = {layer.name: layer for layer in layers}
        self._by_index = {layer.ref.index: layer for layer in reversed(layers)}  # of rows per slice, the first

    def __getitem__(self, key: str | int) -> LayerReport:
        if isinstance(key, int):
            if key in self._by_index:
                return self._by_index[key]
            raise KeyError(f"no layer {key}; indices run from 0 to {max(self._by_index, default=0)}")
        if key in self._by_name:
            return self._by_name[key]
        raise KeyError(f"no layer called {key!r}{did_you_mean(key, self._by_name)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"<{len(self)} layers: {', '.join(list(self)[:3])}{', …' if len(self) > 3 else ''}>"


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What one analysis found: the layers, what was concluded, and how it was made."""

    meta: Mapping[str, Any]  # versions, target, settings, seed, time, device
    rows: tuple[LayerReport, ...]
    findings: tuple[Finding, ...] = ()

    @cached_property
    def layers(self) -> Layers:
        """Every tensor of the model, analysed or skipped, by name or index."""
        return Layers(self.rows)

    @cached_property
    def settings(self) -> Settings:
        """The settings it was made with."""
        from layerscope.settings import Settings

        return Settings.from_dict(self.meta["settings"])

    @property
    def summary(self) -> dict[str, Any]:
        """Mean, median and spread of each metric over the layers that count, and what was left out."""
        from layerscope.views.summary import summarise

        return summarise(self)

    @property
    def details(self) -> pd.DataFrame:
        """The table of analysed layers (the name WeightWatcher's users know)."""
        frame = self.frame()
        return frame[frame["skipped"] == ""].reset_index(drop=True)

    @property
    def spectra(self) -> dict[str, Floats]:
        """Eigenvalues of each analysed layer, ascending."""
        return {row.name: row.spectrum.evals for row in self.rows if row.spectrum is not None}

    def frame(self) -> pd.DataFrame:
        """One row per tensor, one column per metric; needs pandas."""
        from layerscope.views.frame import frame

        return frame(self)

    def save(self, path: str | Path) -> None:
        """Write everything, spectra too, to a ``.layerscope`` file."""
        from layerscope.views.store import save

        save(self, path)

    @staticmethod
    def load(path: str | Path) -> Report:
        """Read a saved report; the inverse of :meth:`save`."""
        from layerscope.views.store import load

        return load(path)

    def to_json(self, *, indent: int | None = None) -> str:
        """The report as JSON, schema 1; spectra are left out."""
        from layerscope.views.json import to_json

        return to_json(self, indent=indent)

    @staticmethod
    def from_json(text: str) -> Report:
        """Read what :meth:`to_json` wrote."""
        from layerscope.views.json import from_json

        return from_json(text)

    def plot(self, name: str = "alpha_by_depth", *layers: str | int, ax: Axes | None = None) -> Figure:
        """A picture as a matplotlib figure: of the model, or of these layers (``plot("esd", "fc1.weight")``).

        :raises UsageError: no such picture or layer, or more layers than one figure holds.
        """
        from layerscope.views.plots import figure

        return figure(name, self, layers, ax)

    def html(self, path: str | Path) -> None:
        """Write the report as one HTML page that needs nothing else."""
        from layerscope.views.page import write

        write(self, path)

    def replace(self, **changes: Any) -> Report:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        from layerscope.views.table import plain

        return plain(self)

    def _repr_html_(self) -> str:
        from layerscope.views.notebook import html

        return html(self)


@dataclass(frozen=True)
class ComparedLayer:
    """One layer that several models have."""

    name: str
    metrics: tuple[Mapping[str, Value], ...]  # of each model
    distances: tuple[Mapping[str, float], ...] = ()  # of each model from the first; empty where they were not measured
    rows: tuple[int, ...] = ()  # of each model's report
    doubtful: tuple[bool, ...] = ()  # of each model: α carries no verdict


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
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
        from layerscope.views.comparison import frame

        return frame(self)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        from layerscope.views.comparison import to_dict

        return to_dict(self)

    def plot(self, name: str = "alpha_histogram", *layers: str | int, ax: Axes | None = None) -> Figure:
        """A picture as a matplotlib figure; see :meth:`Report.plot`."""
        from layerscope.views.plots import figure

        return figure(name, self, layers, ax)

    def html(self, path: str | Path) -> None:
        """Write the comparison as one HTML page that needs nothing else."""
        from layerscope.views.page import write

        write(self, path)

    def __repr__(self) -> str:
        from layerscope.views.comparison import plain

        return plain(self)

    def _repr_html_(self) -> str:
        from layerscope.views.notebook import comparison_html

        return comparison_html(self)


def letters(count: int) -> tuple[str, ...]:
    """A, B, …, Z, then M27, M28, …"""
    return tuple(chr(ord("A") + i) if i < 26 else f"M{i + 1}" for i in range(count))
