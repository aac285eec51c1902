"""The results of a training monitor at one step, and its warnings."""

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
from layerscope.text import plural, printable
from layerscope.views import report_rows

LOGGED_METRICS = {  # metrics of each lens that are logged to trackers by default
    "spectra": ("alpha", "stable_rank", "log_spectral_norm", "rand_distance", "rand_num_spikes"),
    "conditioning": ("lambda_max_x", "lambda_max_d", "kappa_50_x", "domination"),
    "landscape": (),
}
METRIC_PREFIX = "layerscope"
# numbers that change from check to check while the warning stays the same
CHANGING_NUMBERS = re.compile(r"\([-+.\de]+\)|(= |at |now )[-+.\de]+|byte [\d,]+")


@dataclass(frozen=True)
class Check:
    """The results of a check at one step."""

    step: int
    report: Report
    scalars: Mapping[str, float]  # scalars from the training loop, and distances from the landscape lens
    metrics: Mapping[str, float]  # for trackers, under stable keys: layerscope/alpha/mean, layerscope/alpha/fc1.weight
    warnings: tuple[str, ...]
    stop: str  # reason why the run should stop; "" if it should not

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each tensor with its sizes, metrics and verdicts."""
        return report_rows.rows(self.report)


def flatten_metrics(
    report: Report, scalars: Mapping[str, float], messages: Sequence[str], names: Sequence[str]
) -> dict[str, float]:
    """Return the numbers for trackers: each metric of each layer, and its mean over the layers that count."""
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
    """Issues each warning once while it stays true, and finds problems of layers that no metric shows."""

    def __init__(self) -> None:
        self._active: set[str] = set()
        self._shapes: dict[str, tuple[int, ...]] = {}

    def describe_layer_problems(self, report: Report) -> list[str]:
        """Describe layers that are not finite, changed their shape or disappeared."""
        shapes = {row.name: row.ref.shape for row in report.rows}
        before, self._shapes = self._shapes, shapes
        reshaped = [
            f"{name} changed its shape from {before[name]} to {shape}"
            for name, shape in shapes.items()
            if before.get(name, shape) != shape
        ]
        missing = [f"{name} is no longer in the model" for name in before if name not in shapes]
        messages = [
            group[0] + (f", and {plural(len(group) - 1, 'more tensor')}" if len(group) > 1 else "")
            for group in (reshaped, missing)
            if group
        ]
        return messages + [f"{row.name}: {row.skipped or 'not measured'}" for row in report.rows if row.failed]

    def warn(self, step: int, messages: Sequence[str]) -> None:
        """Issue the warnings that were not true at the check before."""
        messages_by_key = {CHANGING_NUMBERS.sub(r"\1", message): message for message in messages}
        for key, message in messages_by_key.items():
            if key not in self._active:
                warn_user(f"step {step}: {message}")
        self._active = set(messages_by_key)


def warn_user(message: str) -> None:
    """Issue a LayerscopeWarning of one line, with control characters escaped."""
    warnings.warn(printable(message, 500), LayerscopeWarning, stacklevel=5)
