"""The history of a training run: one Report per measured step, and trends over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.numerics.kronecker import kappa
from layerscope.numerics.similarity import spearman
from layerscope.records.report import Report
from layerscope.records.viewable import Viewable, load_history, save_history

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOAT32_ZERO_TOLERANCE = 1e-7  # relative; smaller eigenvalues of float32 sums count as zero
MIN_STEPS_FOR_TREND = 4  # fewest steps that show a trend
Series = tuple[tuple[int, ...], tuple[float, ...]]  # (steps, values)


@dataclass(frozen=True, eq=False, repr=False)
class History(Viewable):
    """The same model at several steps of its training: a report and the scalars of the training loop for each."""

    name: str
    steps: tuple[int, ...]  # ascending
    reports: tuple[Report, ...]
    scalars: tuple[Mapping[str, float], ...]  # one mapping per step: loss, accuracy, learning rate, …

    @property
    def last(self) -> Report:
        """The report of the last measured step."""
        return self.reports[-1]

    def series(self, metric: str, layer: str) -> Series:
        """Return the steps and values of a metric of one layer, without the steps at which it is absent."""
        metrics_by_step = [report.layers[layer].metrics if layer in report.layers else {} for report in self.reports]
        return self._finite_series([metrics.get(metric) for metrics in metrics_by_step])

    def of_model(self, name: str) -> Series:
        """Return the steps and values of a number of the whole model.

        ``name`` is a scalar of the training loop ("loss", …) or, with ``exact=True``, a number of the Fisher matrix of
        all measured layers together: "lambda_max", "trace", "kappa_20" and so on.
        """
        whole_by_step = [report.meta.get("conditioning", {}).get("whole", {}) for report in self.reports]
        if name.startswith("kappa_"):
            return self._finite_series([_kappa_of_whole(numbers, name) for numbers in whole_by_step])
        return self._finite_series(
            [{**numbers, **scalars}.get(name) for numbers, scalars in zip(whole_by_step, self.scalars, strict=True)]
        )

    def trend_agreement(self, metric: str = "lambda_max") -> dict[str, float]:
        """Return how well each layer's block follows the whole Fisher matrix over the run: Spearman's ρ of ``metric``.

        ``metric`` is "lambda_max" (the default), "kappa_20" or similar. The exact block is used if it was measured,
        otherwise K-FAC's product. Layers with fewer than four common steps are left out. The result describes this run
        only.
        """
        whole_by_step = dict(zip(*self.of_model(metric), strict=True))
        agreements: dict[str, float] = {}
        for row in self.last.rows:
            name = next((name for name in (f"{metric}_exact", f"{metric}_fim") if name in row.metrics), None)
            if row.skipped or name is None:
                continue
            block_by_step = dict(zip(*self.series(name, row.name), strict=True))
            common = [step for step in block_by_step if step in whole_by_step]
            agreement = spearman([block_by_step[step] for step in common], [whole_by_step[step] for step in common])
            if len(common) >= MIN_STEPS_FOR_TREND and math.isfinite(agreement):
                agreements[row.name] = agreement
        return agreements

    def frame(self) -> pd.DataFrame:
        """Return a data frame with one row per step and tensor, and one column per metric and scalar (needs pandas)."""
        return self._frame()

    def save(self, path: str | Path) -> None:
        """Write the history to a ``.layerscope`` file."""
        save_history(self, path)

    @staticmethod
    def load(path: str | Path) -> History:
        """Read a saved history; the inverse of :meth:`save`."""
        return load_history(path)

    def plot(self, name: str = "learning_curves", *layers: str | int, ax: Axes | None = None) -> Figure:
        """Draw a picture of the run as a matplotlib figure; ``layers`` selects the layers shown, if any are."""
        return self._figure(name, *layers, ax=ax)

    def html(self, path: str | Path, *others: History) -> None:
        """Write the last report and the history as one HTML page, optionally together with other runs."""
        self._write_page([self, *others], path)

    def _finite_series(self, values: list[Any]) -> Series:
        pairs = zip(self.steps, values, strict=True)
        finite = [
            (step, float(value)) for step, value in pairs if isinstance(value, float | int) and math.isfinite(value)
        ]
        return tuple(step for step, _ in finite), tuple(value for _, value in finite)


def _kappa_of_whole(whole: Mapping[str, Any], name: str) -> float | None:
    if "evals" not in whole:
        return None
    return kappa(whole["evals"], float(name.removeprefix("kappa_")), FLOAT32_ZERO_TOLERANCE, whole["params"])
