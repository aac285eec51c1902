"""What a monitor finds at one step, and what it says of it."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerscope.errors import LayerscopeWarning
from layerscope.monitor.criteria import metric
from layerscope.records.report import Report
from layerscope.text import printable
from layerscope.views import report_rows

LOGGED = {  # metrics that trackers are given, of each lens
    "spectra": ("alpha", "stable_rank", "log_spectral_norm", "rand_distance", "rand_num_spikes"),
    "conditioning": ("lambda_max_x", "lambda_max_d", "kappa_50_x", "domination"),
    "landscape": (),
}
PREFIX = "layerscope"
VALUE = re.compile(r"\([-+.\de]+\)|(= |at |now )[-+.\de]+|byte [\d,]+")  # numbers that change while a thing stays true


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


def flat(report: Report, scalars: Mapping[str, float], told: Sequence[str], log: Sequence[str]) -> dict[str, float]:
    """Numbers for trackers: means over the layers that count, and each layer's own."""
    found = {f"{PREFIX}/warnings": float(len(told))}
    counted = report.summary["metrics"]
    for name in log:
        values = metric(report, name)
        if values:
            mean = counted[name]["mean"] if name in counted else math.fsum(values.values()) / len(values)
            found[f"{PREFIX}/{name}/mean"] = float(mean)
        found |= {f"{PREFIX}/{name}/{layer}": value for layer, value in values.items()}
    return found | {f"{PREFIX}/{name}": x for name, x in scalars.items() if name.startswith("distance_")}


class Warned:
    """Warnings that are given once for as long as they hold, and what no metric says of layers."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._shapes: dict[str, tuple[int, ...]] = {}

    def layers(self, report: Report) -> list[str]:
        """Layers that are not finite, have another shape than before, or are gone."""
        shapes = {row.name: row.ref.shape for row in report.rows}
        before, self._shapes = self._shapes, shapes
        other = [f"{n} changed its shape from {before[n]} to {s}" for n, s in shapes.items() if before.get(n, s) != s]
        gone = [f"{name} is no longer there" for name in before if name not in shapes]
        told = [
            f"{each[0]}{f', {len(each) - 1} more tensors too' if len(each) > 1 else ''}"
            for each in (other, gone)
            if each
        ]
        return told + [f"{row.name}: {row.skipped or 'it was not measured'}" for row in report.rows if row.failed]

    def warn(self, step: int, told: Sequence[str]) -> None:
        """Warn of what was not true before."""
        keys = {VALUE.sub(r"\1", why): why for why in told}
        for key, why in keys.items():
            if key not in self._told:
                say(f"step {step}: {why}")
        self._told = set(keys)


def say(words: str) -> None:
    """A warning of ours, a line, without what a terminal would obey."""
    warnings.warn(printable(words, 500), LayerscopeWarning, stacklevel=5)
