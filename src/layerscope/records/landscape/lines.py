"""Metrics along a line or a curve between two models, and its barrier."""

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

HIGHER_IS_BETTER = ("accuracy",)  # metrics that are better when higher


@dataclass(frozen=True, eq=False, repr=False)
class Line(Viewable):
    """Metrics along (1−t)·A + t·B."""

    names: tuple[str, str]
    t: Floats  # (n,)
    metrics: Mapping[str, Floats]  # by name, (n,); NaN where there is a hole
    about: Mapping[str, Any]  # examples, loss, policy of batch norms
    holes: Mapping[str, int]  # points without a value, by reason
    samples: Floats = field(default_factory=lambda: np.zeros((0, 0)), repr=False)  # (n, examples) losses
    clamped: int = 0  # variances below zero that interpolation made

    def barrier(self, kind: str = "chord", metric: str = "loss") -> Barrier:
        """The hill between the ends; of accuracy, that of the error.

        :param kind: "chord", "mean_ends", "max_ends" or "signed", see
            :func:`layerscope.numerics.parameter_geometry.barrier`.
        :raises UsageError: no such kind or metric.
        """
        if kind not in parameter_geometry.BARRIER_KINDS or metric not in self.metrics:
            raise UsageError(f"barriers are {', '.join(parameter_geometry.BARRIER_KINDS)} of {', '.join(self.metrics)}")
        values = 1 - self.metrics[metric] if metric in HIGHER_IS_BETTER else self.metrics[metric]
        top = parameter_geometry.barrier(self.t, values, kind)
        return Barrier(top.value, top.at, self._barrier_error(top.at, metric), kind, metric)

    def errors(self, metric: str = "loss") -> Floats:
        """Standard error of each point over the examples, (n,): of accuracy √(p(1−p)/N); NaN where it is not known."""
        if metric == "loss" and self.samples.shape[1:] > (1,):
            return np.asarray(self.samples.std(1, ddof=1) / math.sqrt(self.samples.shape[1]))
        p, count = self.metrics[metric], self.about.get("examples", 0)
        if metric in HIGHER_IS_BETTER and count:
            return np.asarray(np.sqrt(np.clip(p * (1 - p), 0, None) / count))
        return np.full(len(self.t), math.nan)

    @property
    def rise(self) -> float:
        """Largest rise of the loss over its running minimum from A to B: 0 where it only falls."""
        inside = (self.t >= 0) & (self.t <= 1)
        return parameter_geometry.monotone_rise(self.metrics["loss"][inside])

    def plot(self, *others: Line, ax: Any = None) -> Any:
        """The curves as a matplotlib figure, with those of other lines."""
        return self._figure(*others, ax=ax)

    def _barrier_error(self, at: float, metric: str) -> float | None:
        """Standard error of the top over the chord, paired: the same examples were seen everywhere."""
        samples_by_t = {float(t): row for t, row in zip(self.t, self.samples, strict=False)}
        if metric != "loss" or not {0.0, 1.0, at} <= samples_by_t.keys():
            return None
        rises = samples_by_t[at] - (1 - at) * samples_by_t[0.0] - at * samples_by_t[1.0]
        if len(rises) < 2 or not np.isfinite(rises).all():
            return None
        return float(rises.std(ddof=1) / math.sqrt(len(rises)))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; holes are null. "top" is that of the chord, its error a standard error."""
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
    """How high the hill between two models is."""

    value: float
    at: float  # t of its top
    error: float | None  # standard error, over the examples; None where single losses are not known
    kind: str
    metric: str


@dataclass(frozen=True, eq=False)
class Curve:
    """A trained path between two models, beside the straight one."""

    kind: str
    straight: Line
    curved: Line
    bends: tuple[Mapping[str, Array], ...]
    stretch: float  # length of the path over the distance of its ends

    def __repr__(self) -> str:
        straight, curved = (path.barrier().value for path in (self.straight, self.curved))
        return f"{self.kind}: barrier {straight:.4g} straight, {curved:.4g} curved; {self.stretch:.3g} times as long"
