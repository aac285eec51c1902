"""Metrics on a plane through models, and the path of a training run."""

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
    """A run on the plane of its path: where its checkpoints are, and how true the plane is to them."""

    names: tuple[str, ...]
    where: Floats  # (T, 2) coordinates u, v
    off: Floats  # (T,) distance from the plane
    losses: Floats  # (T,) of the checkpoints themselves
    below: Floats  # (T,) of their places on the plane
    shares: tuple[float, float]  # of the path's variance that the plane's directions explain
    walk: tuple[float, float]  # what those of a random walk would

    @property
    def gap(self) -> float:
        """Largest difference between a checkpoint's loss and that of its place on the plane."""
        gaps = np.abs(self.losses - self.below)
        return float(np.nanmax(gaps)) if np.isfinite(gaps).any() else math.nan

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        rows = {name: [finite_or_none(x) for x in getattr(self, name)] for name in ("off", "losses", "below")}
        return {"names": list(self.names), "where": self.where.tolist(), "shares": list(self.shares),
                "walk": list(self.walk), "gap": finite_or_none(self.gap), **rows}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Plane(Viewable):
    """Metrics at A + u·(B−A) + v·(C−A)."""

    names: tuple[str, str, str]
    u: Floats  # (m,)
    v: Floats  # (n,)
    metrics: Mapping[str, Floats]  # by name, (n, m): a row for each v
    about: Mapping[str, Any]
    holes: Mapping[str, int]
    corners: Floats  # (3, 2) of A, B, C in weight units, orthonormal axes; NaN where they lie on a line
    angle: float  # at A, degrees
    clamped: int = 0
    track: Track | None = None  # of a run on the plane of its path
    findings: tuple[Finding, ...] = ()  # LS308, of the plane of a run

    def best(self, metric: str = "accuracy") -> tuple[float, float, float]:
        """(value, u, v) of the best point.

        :raises UsageError: no such metric, or nothing but holes.
        """
        if metric not in self.metrics:
            raise UsageError(f"the plane has {', '.join(self.metrics)}, not {metric!r}")
        values = self.metrics[metric] if metric in HIGHER_IS_BETTER else -self.metrics[metric]
        if not np.isfinite(values).any():
            raise UsageError("every point is a hole")
        i, j = np.unravel_index(int(np.nanargmax(values)), values.shape)
        return float(self.metrics[metric][i, j]), float(self.u[j]), float(self.v[i])

    def coordinates(self) -> tuple[Floats, Floats]:
        """(x, y), (n, m) each: where the points lie on orthonormal axes, in weight units."""
        (_, _), (b, _), (cx, cy) = self.corners
        u, v = np.meshgrid(self.u, self.v)
        return u * b + v * cx, v * cy

    def plot(self, metric: str = "", ax: Any = None, *, coordinates: str = "affine", surface: bool = False) -> Any:
        """The plane as a matplotlib figure: accuracy, where there is one.

        :param coordinates: "affine": u and v as if they were orthogonal; "orthonormal": true angles, in weight units.
        :param surface: seen from the side instead, its height the metric.
        :raises UnknownName: other coordinates.
        """
        return self._figure(metric, ax=ax, coordinates=coordinates, surface=surface)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; holes are null."""
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
    """Checkpoints of one run, on the plane of most of their variance."""

    names: tuple[str, ...]
    from_start: Floats  # (T,) distance from the first
    steps: Floats  # (T − 1,) distance from one to the next
    coordinates: Floats  # (T, 2) on the principal plane through the last
    shares: Floats  # (2,) of the variance that its directions explain
    walk: tuple[float, float]  # what those of a random walk of many dimensions would explain
    off_plane: Floats  # (T,) distance from the plane
    axes: tuple[Mapping[str, Array], Mapping[str, Array]]  # unit directions
    findings: tuple[Finding, ...] = ()  # LS308, of the shares alone; of the losses too where a plane was drawn

    @property
    def length(self) -> float:
        """Of the path; over the distance of its ends it says how much it winds."""
        return float(self.steps.sum())

    def __repr__(self) -> str:
        shares = ", ".join(f"{share:.1%}" for share in self.shares)
        walk = ", ".join(f"{share:.0%}" for share in self.walk)
        ends = float(self.from_start[-1])
        path = f"{len(self.names)} checkpoints, path {self.length:.4g}, ends {ends:.4g} apart"
        off = f"off it by {float(self.off_plane.max()):.3g} at most"
        summary = f"{path}; the plane explains {shares} (a random walk: {walk}), {off}"
        return "\n".join([summary, *(f"{f.code} {f.title}: {f.message}" for f in self.findings)])
