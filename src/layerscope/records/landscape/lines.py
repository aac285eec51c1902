"""What was found along a line or a curve between two models."""

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

HIGHER = ("accuracy",)  # metrics that are better when higher


@dataclass(frozen=True, eq=False, repr=False)
class Line(Viewable):
    """What was found along (1−t)·A + t·B."""

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
        if kind not in parameter_geometry.KINDS or metric not in self.metrics:
            raise UsageError(f"barriers are {', '.join(parameter_geometry.KINDS)} of {', '.join(self.metrics)}")
        values = 1 - self.metrics[metric] if metric in HIGHER else self.metrics[metric]
        found = parameter_geometry.barrier(self.t, values, kind)
        return Barrier(found.value, found.at, self._error(found.at, metric), kind, metric)

    def errors(self, metric: str = "loss") -> Floats:
        """Standard error of each point over the examples, (n,): of accuracy √(p(1−p)/N); NaN where it is not known."""
        if metric == "loss" and self.samples.shape[1:] > (1,):
            return np.asarray(self.samples.std(1, ddof=1) / math.sqrt(self.samples.shape[1]))
        p, count = self.metrics[metric], self.about.get("examples", 0)
        if metric in HIGHER and count:
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

    def _error(self, at: float, metric: str) -> float | None:
        """Standard error of the top over the chord, paired: the same examples were seen everywhere."""
        rows = {float(t): row for t, row in zip(self.t, self.samples, strict=False)}
        if metric != "loss" or not {0.0, 1.0, at} <= rows.keys():
            return None
        over = rows[at] - (1 - at) * rows[0.0] - at * rows[1.0]
        return float(over.std(ddof=1) / math.sqrt(len(over))) if len(over) > 1 and np.isfinite(over).all() else None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; holes are null. "top" is that of the chord, its error a standard error."""
        top = self.barrier()
        return {
            "names": list(self.names), "t": self.t.tolist(), "about": dict(self.about), "holes": dict(self.holes),
            "metrics": {name: [finite_or_none(v) for v in values] for name, values in self.metrics.items()},
            "barrier": {kind: finite_or_none(self.barrier(kind).value) for kind in parameter_geometry.KINDS},
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
        values = [each.barrier().value for each in (self.straight, self.curved)]
        return (
            f"{self.kind}: barrier {values[0]:.4g} straight, {values[1]:.4g} curved; {self.stretch:.3g} times as long"
        )
