"""Results on a plane through models, and the path of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.numerics.finite_numbers import finite_or_none
from layerscope.records.findings import Finding
from layerscope.records.landscape.lines import HIGHER_IS_BETTER
from layerscope.records.viewable import Viewable

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats


@dataclass(frozen=True, eq=False)
class Track:
    """A training run projected onto a plane, and how well the plane represents its checkpoints."""

    names: tuple[str, ...]
    where: Floats  # (T, 2) coordinates u, v of the projected checkpoints
    off: Floats  # (T,) distance of each checkpoint from the plane
    losses: Floats  # (T,) loss of each checkpoint
    below: Floats  # (T,) loss at the projection of each checkpoint onto the plane
    shares: tuple[float, float]  # share of the run's variance that each direction of the plane explains
    walk: tuple[float, float]  # the same shares for a random walk

    @property
    def gap(self) -> float:
        """Largest difference between the loss of a checkpoint and the loss at its projection onto the plane."""
        gaps = np.abs(self.losses - self.below)
        return float(np.nanmax(gaps)) if np.isfinite(gaps).any() else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain JSON types."""
        rows = {name: [finite_or_none(x) for x in getattr(self, name)] for name in ("off", "losses", "below")}
        return {"names": list(self.names), "where": self.where.tolist(), "shares": list(self.shares),
                "walk": list(self.walk), "gap": finite_or_none(self.gap), **rows}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Plane(Viewable):
    """Metrics of the models A + u·(B−A) + v·(C−A) on a plane through A, B and C."""

    names: tuple[str, str, str]
    u: Floats  # (m,)
    v: Floats  # (n,)
    metrics: Mapping[str, Floats]  # metric name → (n, m), one row for each v
    about: Mapping[str, Any]
    holes: Mapping[str, int]  # reason → number of points without a value
    corners: Floats  # (3, 2) positions of A, B, C on orthonormal axes, in weight units; NaN if they are collinear
    angle: float  # between B−A and C−A, in degrees
    clamped: int = 0  # negative variances from interpolation that were set to zero
    track: Track | None = None  # the training run, if the plane is that of its path
    findings: tuple[Finding, ...] = ()  # LS308, if the plane does not represent the run

    def best(self, metric: str = "accuracy") -> tuple[float, float, float]:
        """Return (value, u, v) of the best point: the highest accuracy, or the lowest value of any other metric.

        :raises UsageError: if there is no such metric, or if no point has a value.
        """
        if metric not in self.metrics:
            raise UsageError(f"metric={metric!r}: this plane has only {', '.join(self.metrics)}")
        values = self.metrics[metric] if metric in HIGHER_IS_BETTER else -self.metrics[metric]
        if not np.isfinite(values).any():
            raise UsageError(
                f"metric={metric!r}: no point of the plane has a finite value; try another range of u and v"
            )
        i, j = np.unravel_index(int(np.nanargmax(values)), values.shape)
        return float(self.metrics[metric][i, j]), float(self.u[j]), float(self.v[i])

    def coordinates(self) -> tuple[Floats, Floats]:
        """Return (x, y), each (n, m): positions of the points on orthonormal axes, in weight units."""
        (_, _), (b, _), (cx, cy) = self.corners
        u, v = np.meshgrid(self.u, self.v)
        return u * b + v * cx, v * cy

    def plot(self, metric: str = "", ax: Any = None, *, coordinates: str = "affine", surface: bool = False) -> Any:
        """Draw one metric on the plane as a matplotlib figure.

        :param metric: name of the metric; by default accuracy if it was measured, else the first metric.
        :param coordinates: "affine" draws u and v as orthogonal axes; "orthonormal" shows true angles, in weight units.
        :param surface: draw a surface in perspective, with the metric as its height.
        :raises UnknownName: if there is no such metric or kind of coordinates.
        """
        return self._figure(metric, ax=ax, coordinates=coordinates, surface=surface)

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain JSON types; missing values are null."""
        return {
            "names": list(self.names), "u": self.u.tolist(), "v": self.v.tolist(), "about": dict(self.about),
            "metrics": {k: [[finite_or_none(x) for x in row] for row in values] for k, values in self.metrics.items()},
            "holes": dict(self.holes), "corners": [[finite_or_none(x) for x in row] for row in self.corners],
            "angle": finite_or_none(self.angle), "clamped": self.clamped,
            **({"track": self.track.to_dict(), "findings": [[f.code, f.title, f.message] for f in self.findings]}
               if self.track is not None else {}),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Checkpoints of one training run, projected onto the plane of their first two principal components."""

    names: tuple[str, ...]
    from_start: Floats  # (T,) distance from the first checkpoint
    steps: Floats  # (T − 1,) distance from each checkpoint to the next
    coordinates: Floats  # (T, 2) on the principal plane through the last checkpoint
    shares: Floats  # (2,) share of the variance that each direction explains
    walk: tuple[float, float]  # the same shares for a random walk in many dimensions
    off_plane: Floats  # (T,) distance of each checkpoint from the plane
    axes: tuple[Mapping[str, Array], Mapping[str, Array]]  # unit directions
    findings: tuple[Finding, ...] = ()  # LS308, judged by the shares alone; a plane's LS308 also compares losses

    @property
    def length(self) -> float:
        """Length of the path; divided by the distance between its ends it shows how much the path winds."""
        return float(self.steps.sum())

    def __repr__(self) -> str:
        shares = ", ".join(f"{share:.1%}" for share in self.shares)
        walk = ", ".join(f"{share:.0%}" for share in self.walk)
        ends = float(self.from_start[-1])
        path = f"{len(self.names)} checkpoints, path length {self.length:.4g}, distance between the ends {ends:.4g}"
        off = f"largest distance from the plane {float(self.off_plane.max()):.3g}"
        summary = f"{path}; the plane explains {shares} of the variance (a random walk: {walk}); {off}"
        return "\n".join([summary, *(f"{f.code} {f.title}: {f.message}" for f in self.findings)])
