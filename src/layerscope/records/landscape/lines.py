"""Results along a line or a curve between two models: metrics at each point, and the loss barrier."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.numerics import parameter_geometry
from layerscope.numerics.finite_numbers import finite_or_none
from layerscope.records.viewable import Viewable

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

HIGHER_IS_BETTER = ("accuracy",)  # the barrier of these metrics is that of 1 − metric


@dataclass(frozen=True, eq=False, repr=False)
class Line(Viewable):
    """Metrics of the models (1−t)·A + t·B on the line from A to B."""

    names: tuple[str, str]
    t: Floats  # (n,)
    metrics: Mapping[str, Floats]  # metric name → (n,); NaN where a point has no value
    about: Mapping[str, Any]  # examples, loss and batch-norm policy
    holes: Mapping[str, int]  # reason → number of points without a value
    samples: Floats = field(default_factory=lambda: np.zeros((0, 0)), repr=False)  # (n, examples) losses
    clamped: int = 0  # negative variances from interpolation that were set to zero

    def barrier(self, kind: str = "chord", metric: str = "loss") -> Barrier:
        """Return the loss barrier between the ends; for accuracy, the barrier of the error 1 − accuracy.

        :param kind: the reference that the metric is compared with: "chord", "mean_ends", "max_ends" or "signed"; see
            :func:`layerscope.numerics.parameter_geometry.barrier`.
        :param metric: name of the metric, one of :attr:`metrics`.
        :raises UsageError: if there is no such kind or metric.
        """
        if kind not in parameter_geometry.BARRIER_KINDS or metric not in self.metrics:
            kinds, metrics = ", ".join(parameter_geometry.BARRIER_KINDS), ", ".join(self.metrics)
            raise UsageError(f"barrier({kind!r}, {metric!r}): kind must be one of {kinds}; metric one of {metrics}")
        values = 1 - self.metrics[metric] if metric in HIGHER_IS_BETTER else self.metrics[metric]
        top = parameter_geometry.barrier(self.t, values, kind)
        return Barrier(top.value, top.at, self._barrier_error(top.at, metric), kind, metric)

    def errors(self, metric: str = "loss") -> Floats:
        """Return the standard error of each point (n,) over the examples; √(p(1−p)/N) for accuracy, NaN if unknown."""
        if metric == "loss" and self.samples.shape[1:] > (1,):
            return np.asarray(self.samples.std(1, ddof=1) / math.sqrt(self.samples.shape[1]))
        p, count = self.metrics[metric], self.about.get("examples", 0)
        if metric in HIGHER_IS_BETTER and count:
            return np.asarray(np.sqrt(np.clip(p * (1 - p), 0, None) / count))
        return np.full(len(self.t), math.nan)

    @property
    def rise(self) -> float:
        """Largest increase of the loss above its running minimum from A to B; 0 if the loss only decreases."""
        inside = (self.t >= 0) & (self.t <= 1)
        return parameter_geometry.monotone_rise(self.metrics["loss"][inside])

    def plot(self, *others: Line, ax: Any = None) -> Any:
        """Draw the metrics as a matplotlib figure, together with those of other lines."""
        return self._figure(*others, ax=ax)

    def _barrier_error(self, at: float, metric: str) -> float | None:
        """Standard error of the barrier, paired because all points are evaluated on the same examples."""
        samples_by_t = {float(t): row for t, row in zip(self.t, self.samples, strict=False)}
        if metric != "loss" or not {0.0, 1.0, at} <= samples_by_t.keys():
            return None
        rises = samples_by_t[at] - (1 - at) * samples_by_t[0.0] - at * samples_by_t[1.0]
        if len(rises) < 2 or not np.isfinite(rises).all():
            return None
        return float(rises.std(ddof=1) / math.sqrt(len(rises)))

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain JSON types; missing values are null. "top" describes the chord barrier."""
        top = self.barrier()
        return {
            "names": list(self.names), "t": self.t.tolist(), "about": dict(self.about), "holes": dict(self.holes),
            "metrics": {name: [finite_or_none(v) for v in values] for name, values in self.metrics.items()},
            "barrier": {kind: finite_or_none(self.barrier(kind).value) for kind in parameter_geometry.BARRIER_KINDS},
            "clamped": self.clamped,
            "top": {"t": finite_or_none(top.at), "value": finite_or_none(top.value), "error": top.error},
            "errors": {name: [finite_or_none(v) for v in self.errors(name)] for name in self.metrics},
        }  # fmt: skip


@dataclass(frozen=True)
class Barrier:
    """The loss barrier between two models, with its position and standard error."""

    value: float
    at: float  # t of the highest point
    error: float | None  # standard error over the examples; None without a loss for each example
    kind: str
    metric: str


@dataclass(frozen=True, eq=False)
class Curve:
    """A trained path between two models, compared with the straight line."""

    kind: str
    straight: Line
    curved: Line
    bends: tuple[Mapping[str, Array], ...]
    stretch: float  # length of the path divided by the distance between its ends

    def __repr__(self) -> str:
        straight, curved = (path.barrier().value for path in (self.straight, self.curved))
        lengths = f"the curve is {self.stretch:.3g} times as long"
        return f"{self.kind}: loss barrier {straight:.4g} on the straight line, {curved:.4g} on the curve; {lengths}"
