"""Results of a basin analysis: which models share a basin of the loss, and how sharp each minimum is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.numerics.finite_numbers import finite_or_none
from layerscope.records.findings import Finding
from layerscope.records.landscape.lines import Line
from layerscope.records.viewable import Viewable

if TYPE_CHECKING:
    from layerscope.array_types import Floats


@dataclass(frozen=True)
class Sharpness:
    """Increases of the loss around a model, all measured on the same examples.

    No single measure grades a model: each depends on the scale of the weights (Dinh et al. 2017), and none ranks models
    by how well they generalize (Andriushchenko et al. 2023).
    """

    loss: float
    average: float  # E[L(θ + σ·|θ|·z) − L(θ)], z Gaussian, antithetic pairs
    average_error: float  # standard error over the pairs
    sam: float  # L(θ + ρ·g/‖g‖) − L(θ)
    adaptive: float  # like sam, with each step scaled by |θ| (ASAM, Kwon et al. 2021)
    worst: float  # 100·(max L(θ + δ) − L)/(1 + L), |δᵢ| ≤ ε(|θᵢ| + 1) (Keskar et al. 2017); a lower bound
    width: float  # half-width, in filter norms, at which the loss has risen by ln 2; median over directions
    gradient: float  # ‖g‖: if it is large, the point is not a minimum and the increases measure the slope
    sigma: float
    rho: float
    epsilon: float
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, float | None]:
        """Return all measurements as plain JSON types; values that are not finite are null."""
        numbers = {name: value for name, value in vars(self).items() if name != "findings"}
        return {name: value if math.isfinite(value) else None for name, value in numbers.items()}

    def __repr__(self) -> str:
        average = f"increases by {self.average:.3g} ± {self.average_error:.1g} under noise of {self.sigma:g}·|θ|"
        steps = f"SAM {self.sam:.3g}, adaptive {self.adaptive:.3g} at ρ = {self.rho:g}, worst case {self.worst:.3g} %"
        lines = [f"loss {self.loss:.4g}, ‖g‖ {self.gradient:.3g}: {average}; {steps}; half-width {self.width:.3g}"]
        return "\n".join([*lines, *(f"{f.code} {f.title}: {f.message}" for f in self.findings)])


@dataclass(frozen=True, eq=False, repr=False)
class Basins(Viewable):
    """Loss barriers between all pairs of models, measured in several ways, with advice on averaging."""

    names: tuple[str, ...]
    barriers: Mapping[str, Floats]  # way ("recompute", "interpolate", "aligned", "repaired") → (M, M)
    errors: Mapping[str, Floats]  # their standard errors
    clusters: tuple[tuple[str, ...], ...]  # basins of the models as they are
    aligned: tuple[tuple[str, ...], ...]  # basins after aligning hidden units; equal to clusters if that was not tried
    tolerance: float  # loss barriers up to this value count as zero
    lines: Mapping[tuple[str, str], Line]  # measured in the way that defines the clusters
    ends: Mapping[str, Mapping[str, float]]  # model → metrics
    mean: Mapping[str, float]  # metrics of the average of all models, batch-norm statistics recomputed
    means: Mapping[tuple[str, ...], Mapping[str, float]]  # metrics of the average of each basin with several models
    findings: tuple[Finding, ...]
    about: Mapping[str, Any]
    functions: Mapping[str, Floats]  # "disagreement", "js", "cka", … → (M, M); empty if the outputs are unknown
    sharpness: Mapping[str, Sharpness]  # by model; empty unless requested

    @property
    def tree(self) -> Floats:
        """SciPy's complete linkage (M − 1, 4): two groups join at the largest loss barrier between them."""
        first = next(iter(self.barriers.values()))
        high = np.nanmax(np.where(np.isfinite(first), first, math.nan), initial=self.tolerance)
        return complete_linkage(np.where(np.isfinite(first), first, 2 * high))

    def advice(self) -> list[str]:
        """Return one sentence for each recommendation on averaging these models."""
        sentences = []
        for group in self.clusters:
            if len(group) < 2:
                continue
            mean, best = self.means[group]["loss"], min(group, key=lambda name: self.ends[name]["loss"])
            lowest, members = self.ends[best]["loss"], _enumerate_names(group)
            none_exceeds = f"no loss barrier exceeds {self.tolerance:.3g}"
            if mean < lowest:
                losses = f"the average has loss {mean:.4g}, the best single model {lowest:.4g}"
                sentences.append(f"{members} can be averaged: {none_exceeds}; {losses}.")
            else:
                losses = f"their average has loss {mean:.4g} and {best} alone {lowest:.4g}"
                sentences.append(f"{members} share a basin ({none_exceeds}), but use {best}: {losses}.")
        for group in self.aligned:
            inside = [cluster for cluster in self.clusters if set(cluster) <= set(group)]
            if len(inside) < 2:
                continue
            indices = [self.names.index(name) for name in group]
            within = np.ix_(indices, indices)
            is_connected = self.barriers["aligned"][within] <= self.tolerance
            heights = [
                _format_height(float(np.nanmax(matrix[within])))
                for way, matrix in self.barriers.items()
                if way in (next(iter(self.barriers)), "aligned", "repaired")
            ]
            members = _enumerate_names([cluster[0] for cluster in inside])
            if is_connected.all():
                sentences.append(
                    f"Align {members} before averaging: after permuting hidden units the loss barrier disappears "
                    f"({' → '.join(heights[:2])})."
                )
            else:
                sentences.append(
                    f"Align {members} and apply REPAIR before averaging: permuting hidden units alone leaves a loss "
                    f"barrier, and REPAIR removes it ({' → '.join(heights)})."
                )
        joined = self.aligned or self.clusters
        if len(joined) > 1:
            first = next(iter(self.barriers))
            left = _format_height(float(np.nanmax(self.barriers.get("aligned", self.barriers[first]))))
            before = f" ({_format_height(float(np.nanmax(self.barriers[first])))} before)"
            still = f"; after alignment a loss barrier of {left} remains{before}" if "aligned" in self.barriers else ""
            reasons = self.about.get("not matched")
            if reasons:
                cause = f"some hidden units could not be matched ({reasons}), so they may still share a basin"
                sentences.append(f"Do not average {format_basins(joined)} as they are{still}; {cause}.")
            else:
                sentences.append(f"Do not average models from different basins, {format_basins(joined)}{still}.")
        return sentences

    def plot(self, way: str = "", ax: Any = None) -> Any:
        """Draw the loss barriers as a matplotlib figure, grouped by basin, next to the dendrogram of the models."""
        return self._figure(way, ax=ax)

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain JSON types."""
        matrices = {way: [[finite_or_none(x) for x in row] for row in rows] for way, rows in self.barriers.items()}
        return {
            "names": list(self.names), "barriers": matrices, "tolerance": self.tolerance,
            "clusters": list(map(list, self.clusters)), "aligned": list(map(list, self.aligned)),
            "ends": {name: dict(metrics) for name, metrics in self.ends.items()}, "mean": dict(self.mean),
            "advice": self.advice(),
            "functions": {
                name: [[finite_or_none(x) for x in row] for row in rows] for name, rows in self.functions.items()
            },
            "sharpness": {name: sharpness.to_dict() for name, sharpness in self.sharpness.items()},
            "findings": [[f.code, f.title, f.layer, f.message] for f in self.findings], "about": dict(self.about),
        }  # fmt: skip


def _enumerate_names(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]


def _format_height(barrier: float) -> str:
    return f"{max(barrier, 0.0):.2{'f' if barrier >= 0.1 or barrier < 0.001 else 'g'}}"


def format_basins(basins: Sequence[Sequence[str]]) -> str:
    """Format groups of models as sets: ``{a, b}, {c} and {d}``."""
    return _enumerate_names([f"{{{', '.join(basin)}}}" for basin in basins])


def complete_linkage(barriers: Floats) -> Floats:
    """SciPy's complete linkage of models: two groups join at the largest loss barrier between them."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    tree: Floats = linkage(squareform(np.maximum(barriers, 0.0), checks=False), "complete", optimal_ordering=True)
    return tree
