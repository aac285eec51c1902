"""What a monitor finds at one step, and what it says of it."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerscope.errors import LayerscopeWarning
from layerscope.monitor.criteria import metric_by_layer
from layerscope.records.report import Report
from layerscope.text import printable
from layerscope.views import report_rows

LOGGED_METRICS = {  # metrics that trackers are given, of each lens
    "spectra": ("alpha", "stable_rank", "log_spectral_norm", "rand_distance", "rand_num_spikes"),
    "conditioning": ("lambda_max_x", "lambda_max_d", "kappa_50_x", "domination"),
    "landscape": (),
}
METRIC_PREFIX = "layerscope"
# numbers in a warning that change while the warning stays true
CHANGING_NUMBERS = re.compile(r"\([-+.\de]+\)|(= |at |now )[-+.\de]+|byte [\d,]+")


@dataclass(frozen=True)
class Check:
    """What was found at one step."""

    step: int
    report: Report
    scalars: Mapping[str, float]  # that the loop gave, and distances of the landscape lens
    metrics: Mapping[str, float]  # for trackers, under stable keys: layerscope/alpha/mean, layerscope/alpha/fc1.weight
    warnings: tuple[str, ...]
    stop: str  # why the run should stop; "" where it should not

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each tensor: sizes, every metric, verdicts."""
        return report_rows.rows(self.report)


def flatten_metrics(
    report: Report, scalars: Mapping[str, float], messages: Sequence[str], names: Sequence[str]
) -> dict[str, float]:
    """Numbers for trackers: means over the layers that count, and each layer's own."""
    numbers = {f"{METRIC_PREFIX}/warnings": float(len(messages))}
    counted = report.summary["metrics"]
    for name in names:
        values = metric_by_layer(report, name)
        if values:
            mean = counted[name]["mean"] if name in counted else math.fsum(values.values()) / len(values)
            numbers[f"{METRIC_PREFIX}/{name}/mean"] = float(mean)
        numbers |= {f"{METRIC_PREFIX}/{name}/{layer}": value for layer, value in values.items()}
    return numbers | {f"{METRIC_PREFIX}/{name}": x for name, x in scalars.items() if name.startswith("distance_")}


class WarningLog:
    """Warnings that are given once for as long as they hold, and what no metric says of layers."""

    def __init__(self) -> None:
        self._active: set[str] = set()
        self._shapes: dict[str, tuple[int, ...]] = {}

    def describe_layer_problems(self, report: Report) -> list[str]:
        """Layers that are not finite, have another shape than before, or are gone."""
        shapes = {row.name: row.ref.shape for row in report.rows}
        before, self._shapes = self._shapes, shapes
        reshaped = [
            f"{name} changed its shape from {before[name]} to {shape}"
            for name, shape in shapes.items()
            if before.get(name, shape) != shape
        ]
        missing = [f"{name} is no longer there" for name in before if name not in shapes]
        messages = [
            f"{group[0]}{f', {len(group) - 1} more tensors too' if len(group) > 1 else ''}"
            for group in (reshaped, missing)
            if group
        ]
        return messages + [f"{row.name}: {row.skipped or 'it was not measured'}" for row in report.rows if row.failed]

    def warn(self, step: int, messages: Sequence[str]) -> None:
        """Warn of what was not true before."""
        messages_by_key = {CHANGING_NUMBERS.sub(r"\1", message): message for message in messages}
        for key, message in messages_by_key.items():
            if key not in self._active:
                warn_user(f"step {step}: {message}")
        self._active = set(messages_by_key)


def warn_user(message: str) -> None:
    """A warning of ours, a line, without what a terminal would obey."""
    warnings.warn(printable(message, 500), LayerscopeWarning, stacklevel=5)
