"""The report of one analysis of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import did_you_mean
from layerscope.records.findings import Finding
from layerscope.records.layers import LayerReport
from layerscope.records.viewable import Viewable, load_report, report_from_json, report_to_json, save_report
from layerscope.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from layerscope.array_types import Floats


class Layers(Mapping[str, LayerReport]):
    """The layers of a report, accessible by name or index."""

    def __init__(self, layers: tuple[LayerReport, ...]) -> None:
        self._by_name = {layer.name: layer for layer in layers}
        self._by_index = {layer.ref.index: layer for layer in reversed(layers)}  # the first row, if a layer has several

    def __getitem__(self, key: str | int) -> LayerReport:
        if isinstance(key, int):
            if key in self._by_index:
                return self._by_index[key]
            raise KeyError(f"no layer with index {key}; indices run from 0 to {max(self._by_index, default=0)}")
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
class Report(Viewable):
    """The result of one analysis: the layers, the findings, and how they were produced."""

    meta: Mapping[str, Any]  # versions, target, settings, seed, time, device
    rows: tuple[LayerReport, ...]
    findings: tuple[Finding, ...] = ()

    @cached_property
    def layers(self) -> Layers:
        """Every tensor of the model, analyzed or skipped, by name or index."""
        return Layers(self.rows)

    @cached_property
    def settings(self) -> Settings:
        """The settings of the analysis."""
        return Settings.from_dict(self.meta["settings"])

    @property
    def summary(self) -> dict[str, Any]:
        """Mean, median and standard deviation of each metric over the averaged layers, and the excluded layers."""
        from layerscope.records.report_summary import summarize

        return summarize(self)

    @property
    def details(self) -> pd.DataFrame:
        """The data frame of analyzed layers (the name that WeightWatcher uses)."""
        frame = self.frame()
        return frame[frame["skipped"] == ""].reset_index(drop=True)

    @property
    def spectra(self) -> dict[str, Floats]:
        """The eigenvalues of each analyzed layer, ascending."""
        return {row.name: row.spectrum.evals for row in self.rows if row.spectrum is not None}

    def frame(self) -> pd.DataFrame:
        """Return a data frame with one row per tensor and one column per metric (needs pandas)."""
        return self._frame()

    def save(self, path: str | Path) -> None:
        """Write the report, including spectra, to a ``.layerscope`` file."""
        save_report(self, path)

    @staticmethod
    def load(path: str | Path) -> Report:
        """Read a saved report; the inverse of :meth:`save`."""
        return load_report(path)

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the report as JSON (schema 1), without spectra."""
        return report_to_json(self, indent)

    @staticmethod
    def from_json(text: str) -> Report:
        """Read a report from the JSON text of :meth:`to_json`."""
        return report_from_json(text)

    def plot(self, name: str = "alpha_by_depth", *layers: str | int, ax: Axes | None = None) -> Figure:
        """Draw a picture of the model, or of the given layers, as a matplotlib figure (``plot("esd", "fc1.weight")``).

        :raises UsageError: if there is no such picture or layer, or if there are more layers than one figure can show.
        """
        return self._figure(name, *layers, ax=ax)

    def replace(self, **changes: Any) -> Report:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def _repr_html_(self) -> str:
        return self._notebook_cell()
