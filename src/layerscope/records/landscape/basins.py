"""Which models share a basin of the loss, and how sharp it is."""

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
    """Rises of the loss around a model, all on the same data. None of them alone grades a model: they depend on the
    scale of the weights (Dinh et al. 2017) and do not order models by how they generalise (Andriushchenko et al. 2023).
    """

    loss: float
    average: float  # E[L(θ + σ·|θ|·z) − L(θ)], z Gaussian, antithetic pairs
    average_error: float  # standard error over the pairs
    sam: float  # L(θ + ρ·g/‖g‖) − L(θ)
    adaptive: float  # the same in the geometry of |θ| (ASAM, Kwon et al. 2021)
    worst: float  # 100·(max L(θ + δ) − L)/(1 + L), |δᵢ| ≤ ε(|θᵢ| + 1) (Keskar et al. 2017): a lower bound, by ascent
    width: float  # half-width, in filter norms, at which the loss has risen by ln 2; median over directions
    gradient: float  # ‖g‖: where it is not small the point is no minimum, and rises are slopes
    sigma: float
    rho: float
    epsilon: float
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, float | None]:
        """Its numbers, as plain JSON types."""
        numbers = {name: value for name, value in vars(self).items() if name != "findings"}
        return {name: value if math.isfinite(value) else None for name, value in numbers.items()}

    def __repr__(self) -> str:
        average = f"rises by {self.average:.3g} ± {self.average_error:.1g} at {self.sigma:g}·|θ| noise"
        steps = f"SAM {self.sam:.3g}, adaptive {self.adaptive:.3g} at ρ = {self.rho:g}, worst {self.worst:.3g} %"
        lines = [f"loss {self.loss:.4g}, ‖g‖ {self.gradient:.3g}: {average}; {steps}; half-width {self.width:.3g}"]
        return "\n".join([*lines, *(f"{f.code} {f.title}: {f.message}" for f in self.findings)])


@dataclass(frozen=True, eq=False, repr=False)
class Basins(Viewable):
    """Barriers of the loss between every two models in several ways, and what follows for averaging them."""

    names: tuple[str, ...]
    barriers: Mapping[str, Floats]  # way ("recompute", "interpolate", "aligned", "repaired") → (M, M)
    errors: Mapping[str, Floats]  # standard errors of them
    clusters: tuple[tuple[str, ...], ...]  # by the best way that needs no alignment
    aligned: tuple[tuple[str, ...], ...]  # with alignment; the same where it was not tried
    tolerance: float  # of the loss: what a barrier may have
    lines: Mapping[tuple[str, str], Line]  # by the way that clusters
    ends: Mapping[str, Mapping[str, float]]  # model → metrics
    mean: Mapping[str, float]  # of the mean of all models, statistics recomputed
    means: Mapping[tuple[str, ...], Mapping[str, float]]  # of the mean of each group of several
    findings: tuple[Finding, ...]
    about: Mapping[str, Any]
    functions: Mapping[str, Floats]  # "disagreement", "js", "cka", … → (M, M); empty where outputs are not known
    sharpness: Mapping[str, Sharpness]  # by model, where it was asked for

    @property
    def tree(self) -> Floats:
        """Which models join at which barrier, (M − 1, 4): SciPy's linkage, the largest between groups."""
        first = next(iter(self.barriers.values()))
        high = np.nanmax(np.where(np.isfinite(first), first, math.nan), initial=self.tolerance)
        return complete_linkage(np.where(np.isfinite(first), first, 2 * high))

    def advice(self) -> list[str]:
        """What follows for averaging them."""
        sentences = []
        for group in self.clusters:
            if len(group) < 2:
                continue
            mean, best = self.means[group]["loss"], min(self.ends[name]["loss"] for name in group)
            rises = f"between them the loss rises by no more than {self.tolerance:.3g}"
            sentences.append(
                f"Average {_enumerate_names(group)}: {rises}; their mean has {mean:.4g}, the best of them {best:.4g}."
            )
        for group in self.aligned:
            inside = [cluster for cluster in self.clusters if set(cluster) <= set(group)]
            if len(inside) < 2:
                continue
            indices = [self.names.index(name) for name in group]
            is_connected = self.barriers["aligned"][np.ix_(indices, indices)] <= self.tolerance
            if is_connected.all():
                action, reason = "Align", "in one order of their units no hill is between them"
            else:
                action, reason = "Align and repair", "an order of their units alone leaves a hill, REPAIR takes it away"
            sentences.append(
                f"{action} before averaging {_enumerate_names([cluster[0] for cluster in inside])}: {reason}."
            )
        joined = self.aligned or self.clusters
        if len(joined) > 1:
            sentences.append(
                f"Do not average across {len(joined)} groups: {'; '.join(_enumerate_names(group) for group in joined)}."
            )
        return sentences

    def plot(self, way: str = "", ax: Any = None) -> Any:
        """The barriers as a matplotlib figure, mountain by mountain, beside the tree in which they join."""
        return self._figure(way, ax=ax)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
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


def complete_linkage(barriers: Floats) -> Floats:
    """SciPy's linkage of models, groups joining at the largest barrier between them."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    tree: Floats = linkage(squareform(np.maximum(barriers, 0.0), checks=False), "complete", optimal_ordering=True)
    return tree
