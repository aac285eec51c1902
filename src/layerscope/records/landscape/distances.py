"""Distances between models, of their weights and of their functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.choices import DISTANCE_KINDS
from layerscope.errors import UnknownName
from layerscope.numerics import parameter_geometry
from layerscope.numerics.finite_numbers import finite_or_none
from layerscope.records.findings import Finding
from layerscope.records.viewable import Viewable

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats, Ints

UNRELATED_DISTANCE = 0.95  # symmetric: as far as vectors that have nothing in common
MIN_ENTRIES_FOR_COSINE = 400  # from which a tensor's cosine tells chance from kinship
MAX_CHANCE_DEVIATIONS = 3.0  # standard deviations 1/√P of a cosine of independent weights


@dataclass(frozen=True, eq=False, repr=False)
class Distances(Viewable):
    """Distances of several models over the tensors that count, as matrices with a row per model."""

    names: tuple[str, ...]
    select: str  # which tensors count
    params: int  # entries that do
    tensors: Mapping[str, Floats]  # name → squared l2 distances (M, M) of this tensor
    lengths: Mapping[str, Floats]  # name → squared lengths (M,)
    products: Floats  # Gram matrix (M, M) over all of them
    squares: Floats  # squared l2 distances (M, M), differences taken directly where the Gram matrix loses them
    expected: Mapping[str, float]  # initialiser → l2 distance of two fresh models of these shapes
    unlike: tuple[str, ...] = ()  # tensors left out because not all models have them alike
    without: Mapping[str, Floats] = field(default_factory=dict)  # symmetric distances without "scale", and "order" too
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of the tensors
    origin: str = ""  # the model that the others started from
    drift: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # Gram matrix (M, M) of differences from it
    findings: tuple[Finding, ...] = ()  # LS306 and LS307

    def matrix(self, kind: str = "l2") -> Floats:
        """Of every two: "l2" ‖a−b‖; "symmetric" ‖a−b‖/√(‖a‖²+‖b‖²), 0 for equal models and 1 for unrelated ones;
        "relative" ‖a−b‖/‖a‖, a the row's; "cosine"; "rms". Where an origin o was given, "centred": the cosine of a−o
        and b−o. Where a module was, "scale" and "order": the symmetric one of canonical forms, and of these in the
        order of units that fits best.

        :raises UnknownName: another kind.
        """
        if kind == "l2":
            return np.asarray(np.sqrt(self.squares))
        if kind == "rms":
            return np.asarray(np.sqrt(self.squares / self.params))
        if kind == "cosine":
            return parameter_geometry.cosines(self.products)
        if kind == "symmetric":
            lengths = np.diagonal(self.products)
            with np.errstate(invalid="ignore"):
                return np.asarray(np.sqrt(self.squares / (lengths[:, None] + lengths[None])))
        if kind == "relative":
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(np.sqrt(self.squares / np.diagonal(self.products)[:, None]))
        if kind == "centred" and self.origin:
            return parameter_geometry.cosines(self.drift)
        if kind in self.without:
            return self.without[kind]
        raise UnknownName("distance", kind, self.kinds)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that :meth:`matrix` has."""
        return (*DISTANCE_KINDS, *(["centred"] if self.origin else []), *self.without)

    @property
    def from_origin(self) -> dict[str, float]:
        """l2 distance of each model from the origin; empty without one."""
        return {name: math.sqrt(x) for name, x in zip(self.names, np.diagonal(self.drift), strict=False)}

    @property
    def tree(self) -> Floats:
        """Which models join at which symmetric distance, (M − 1, 4): SciPy's linkage, the mean between groups."""
        from scipy.cluster.hierarchy import linkage
        from scipy.spatial.distance import squareform

        finite = np.nan_to_num(self.matrix("symmetric"), nan=1.0)
        tree: Floats = linkage(squareform(finite, checks=False), "average", optimal_ordering=True)
        return tree

    def share_above_chance(self, i: int, j: int) -> float:
        """Share of the weights whose cosine is above what chance gives independent ones."""
        are_above = []
        for name, shape in self.shapes.items():
            size, (length_i, length_j) = math.prod(shape), self.lengths[name][[i, j]]  # squared
            if len(shape) > 1 and size >= MIN_ENTRIES_FOR_COSINE and length_i > 0 and length_j > 0:
                cosine = (length_i + length_j - self.tensors[name][i, j]) / (2 * math.sqrt(length_i * length_j))
                are_above.append(cosine > MAX_CHANCE_DEVIATIONS / math.sqrt(size))
        return sum(are_above) / len(are_above) if are_above else math.nan

    def by_layer(self, a: str, b: str) -> dict[str, float]:
        """l2 distance of each module's tensors between two models: their squares add up to the whole.

        :raises UnknownName: no such model.
        """
        i, j = (self._index_of(name) for name in (a, b))
        squares_by_module: dict[str, float] = {}
        for name, squares in self.tensors.items():
            module = name.rpartition(".")[0] or name
            squares_by_module[module] = squares_by_module.get(module, 0.0) + float(squares[i, j])
        return {module: math.sqrt(square) for module, square in squares_by_module.items()}

    def parts(self, a: str, b: str) -> tuple[float, float]:
        """(share of the squared distance that is a difference of lengths, share that is angle)."""
        i, j = (self._index_of(name) for name in (a, b))
        length_a, length_b = (math.sqrt(max(0.0, float(self.products[k, k]))) for k in (i, j))
        total = float(self.squares[i, j])
        length_share = min(1.0, (length_a - length_b) ** 2 / total) if total > 0 else 0.0
        return length_share, 1.0 - length_share if total > 0 else 0.0

    def reading(self) -> list[str]:
        """What the distances say, in plain language."""
        symmetric, sentences = self.matrix("symmetric"), []
        values = [float(symmetric[i, j]) for i, j in combinations(range(len(self.names)), 2)]
        far = sum(value >= UNRELATED_DISTANCE for value in values)
        if far == len(values):
            sentences.append("Every two are as far apart as vectors that have nothing in common (symmetric ≥ 0.95).")
        elif far:
            sentences.append(f"{far} of {len(values)} pairs have nothing in common (symmetric ≥ 0.95).")
        else:
            low, high = f"{min(values):.3g}", f"{max(values):.3g}"
            span = low if low == high else f"{low} to {high}"
            sentences.append(
                f"Symmetric distance {span}: 1 has nothing in common, 0 everything; norms' gains lower it."
            )
        measured = [float(value) for value in self.matrix("l2")[np.triu_indices(len(self.names), 1)]]
        mean, fresh = sum(measured) / len(measured), self.expected["torch"]
        if fresh > 0:
            sentences.append(f"Mean distance {mean:.4g}; two fresh models of torch's own initialiser: {fresh:.4g}.")
        sentences.append(
            "Euclidean distance alone ranks nothing: decay shrinks it, and scales and orders of units do not "
            "change what a model computes."
        )
        return sentences

    def _index_of(self, name: str) -> int:
        if name not in self.names:
            raise UnknownName("model", name, self.names)
        return self.names.index(name)

    def plot(self, kind: str = "l2", ax: Any = None) -> Any:
        """The matrix as a matplotlib figure, near models beside each other, and the tree in which they join."""
        return self._figure(kind, ax=ax)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; NaN becomes null."""
        plain = {kind: [[finite_or_none(x) for x in row] for row in self.matrix(kind)] for kind in self.kinds}
        return {
            "names": list(self.names),
            "select": self.select,
            "params": self.params,
            "tensors": len(self.tensors),
            "left_out": list(self.unlike),
            "expected": dict(self.expected),
            **plain,
            "origin": self.origin or None,
            "from_origin": self.from_origin if self.origin else {},
            "findings": [[f.code, f.title, f.message] for f in self.findings],
            "reading": self.reading(),
        }


@dataclass(frozen=True)
class FunctionDistance:
    """Two models on the same inputs."""

    disagreement: float  # share of examples with another most likely class
    normalised: float  # over the mean of both error rates: 1 where errors are as independent as they can be
    js: float  # mean Jensen–Shannon divergence of the probabilities, nats: 0 to ln 2
    logits: float  # root mean square difference of the logits, each row centred
    cka: float  # linear CKA of the logits, 1 up to rotation and scale (Kornblith et al. 2019)
    errors: tuple[float, float]
    examples: int


@dataclass(frozen=True, eq=False)
class Alignment:
    """B with its units in A's order."""

    weights: Mapping[str, Array]  # of B, permuted
    permutations: tuple[Ints, ...]  # of each group that is free, new order of B's units
    groups: int  # that were permuted
    fixed: tuple[str, ...]  # why others could not be
    before: float  # ‖A − B‖ over the learned tensors
    after: float  # ‖A − PB‖
    output_change: float  # largest |f(PB) − f(B)| over the largest |f(B)|: rounding; NaN where no model was given
    method: str

    def __repr__(self) -> str:
        fixed = f", {len(self.fixed)} fixed" if self.fixed else ""
        change = "not compared" if math.isnan(self.output_change) else f"changed by {self.output_change:.1e}"
        moved = f"distance {self.before:.4g} → {self.after:.4g}, output {change}"
        return f"aligned by {self.method}: {self.groups} groups{fixed}; {moved}"
