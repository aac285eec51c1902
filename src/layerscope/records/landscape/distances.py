"""Results of distance measurements: distances between models in weight space and in function space."""

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
from layerscope.text import plural

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats, Ints

UNRELATED_DISTANCE = 0.95  # symmetric distance from which two models count as unrelated
MIN_ENTRIES_FOR_COSINE = 400  # smaller tensors reach high cosines by chance
MAX_CHANCE_DEVIATIONS = 3.0  # in standard deviations, 1/√P, of the cosine of independent weights


@dataclass(frozen=True, eq=False, repr=False)
class Distances(Viewable):
    """Distances between several models over the selected tensors, as matrices with one row per model."""

    names: tuple[str, ...]
    select: str  # which tensors are compared
    params: int  # number of entries compared
    tensors: Mapping[str, Floats]  # tensor name → squared l2 distances (M, M)
    lengths: Mapping[str, Floats]  # tensor name → squared norms (M,)
    products: Floats  # Gram matrix (M, M) over all tensors
    squares: Floats  # squared l2 distances (M, M); computed directly where the Gram matrix is too imprecise
    expected: Mapping[str, float]  # initializer → expected l2 distance of two untrained models of these shapes
    unlike: tuple[str, ...] = ()  # tensors skipped because some model lacks them or has another shape
    without: Mapping[str, Floats] = field(default_factory=dict)  # "scale", "order" → symmetric distances
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # tensor name → shape
    origin: str = ""  # the model from which the others were trained
    drift: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # Gram matrix (M, M) of model − origin
    findings: tuple[Finding, ...] = ()  # LS306 and LS307

    def matrix(self, kind: str = "l2") -> Floats:
        """Return the distances (M, M) of one kind between all pairs of models.

        Always available: "l2", ‖a−b‖; "symmetric", ‖a−b‖/√(‖a‖²+‖b‖²), which is 0 for equal and 1 for unrelated models;
        "relative", ‖a−b‖/‖a‖ with a the model of the row; "cosine", the cosine of a and b; "rms", ‖a−b‖/√entries.
        With an origin o: "centred", the cosine of a−o and b−o. With a module: "scale", the symmetric distance after
        removing scales that leave the function unchanged, and "order", the same after permutation alignment.

        :raises UnknownName: if there is no such kind; see :attr:`kinds`.
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
        """The kinds of distance that :meth:`matrix` accepts."""
        return (*DISTANCE_KINDS, *(["centred"] if self.origin else []), *self.without)

    @property
    def from_origin(self) -> dict[str, float]:
        """l2 distance of each model from the origin; empty if no origin was given."""
        return {name: math.sqrt(x) for name, x in zip(self.names, np.diagonal(self.drift), strict=False)}

    @property
    def tree(self) -> Floats:
        """SciPy's average linkage (M − 1, 4): two groups join at their mean symmetric distance."""
        from scipy.cluster.hierarchy import linkage
        from scipy.spatial.distance import squareform

        finite = np.nan_to_num(self.matrix("symmetric"), nan=1.0)
        tree: Floats = linkage(squareform(finite, checks=False), "average", optimal_ordering=True)
        return tree

    def share_above_chance(self, i: int, j: int) -> float:
        """Return the share of weight tensors whose cosine is higher than independent weights reach by chance."""
        are_above = []
        for name, shape in self.shapes.items():
            size, (length_i, length_j) = math.prod(shape), self.lengths[name][[i, j]]  # squared
            if len(shape) > 1 and size >= MIN_ENTRIES_FOR_COSINE and length_i > 0 and length_j > 0:
                cosine = (length_i + length_j - self.tensors[name][i, j]) / (2 * math.sqrt(length_i * length_j))
                are_above.append(cosine > MAX_CHANCE_DEVIATIONS / math.sqrt(size))
        return sum(are_above) / len(are_above) if are_above else math.nan

    def by_layer(self, a: str, b: str) -> dict[str, float]:
        """Return the l2 distance between two models for each module; the squares add up to the total.

        :raises UnknownName: if there is no such model.
        """
        i, j = (self._index_of(name) for name in (a, b))
        squares_by_module: dict[str, float] = {}
        for name, squares in self.tensors.items():
            module = name.rpartition(".")[0] or name
            squares_by_module[module] = squares_by_module.get(module, 0.0) + float(squares[i, j])
        return {module: math.sqrt(square) for module, square in squares_by_module.items()}

    def parts(self, a: str, b: str) -> tuple[float, float]:
        """Split the squared distance into (share due to different norms, share due to different directions)."""
        i, j = (self._index_of(name) for name in (a, b))
        length_a, length_b = (math.sqrt(max(0.0, float(self.products[k, k]))) for k in (i, j))
        total = float(self.squares[i, j])
        length_share = min(1.0, (length_a - length_b) ** 2 / total) if total > 0 else 0.0
        return length_share, 1.0 - length_share if total > 0 else 0.0

    def reading(self) -> list[str]:
        """Return an explanation of the distances, one sentence per item."""
        symmetric, sentences = self.matrix("symmetric"), []
        values = [float(symmetric[i, j]) for i, j in combinations(range(len(self.names)), 2)]
        far = sum(value >= UNRELATED_DISTANCE for value in values)
        if far == len(values):
            sentences.append("All pairs are as far apart as unrelated weights (symmetric distance ≥ 0.95).")
        elif far:
            sentences.append(
                f"{far} of {len(values)} pairs are as far apart as unrelated weights (symmetric distance ≥ 0.95)."
            )
        else:
            low, high = f"{min(values):.3g}", f"{max(values):.3g}"
            span = low if low == high else f"{low} to {high}"
            sentences.append(
                f"Symmetric distance {span} (0: equal weights, 1: unrelated weights). "
                "Normalization gains near 1 lower it, because all models share them."
            )
        measured = [float(value) for value in self.matrix("l2")[np.triu_indices(len(self.names), 1)]]
        mean, fresh = sum(measured) / len(measured), self.expected["torch"]
        if fresh > 0:
            sentences.append(f"Mean l2 distance {mean:.4g}; two models freshly initialized by PyTorch: {fresh:.4g}.")
        sentences.append(
            "The l2 distance alone does not show how different two models are: weight decay shrinks it, and "
            "rescaling or permuting hidden units changes it without changing the predictions."
        )
        return sentences

    def _index_of(self, name: str) -> int:
        if name not in self.names:
            raise UnknownName("model", name, self.names)
        return self.names.index(name)

    def plot(self, kind: str = "l2", ax: Any = None) -> Any:
        """Draw the distances as a matplotlib figure, close models adjacent, next to the dendrogram of the models."""
        return self._figure(kind, ax=ax)

    def to_dict(self) -> dict[str, Any]:
        """Return the distances as plain JSON types; NaN becomes null."""
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
    """Differences between the predictions of two models on the same examples."""

    disagreement: float  # share of examples for which the predicted class differs
    normalised: float  # disagreement / mean error rate; 1 if the errors are as independent as they can be
    js: float  # mean Jensen–Shannon divergence of the probabilities in nats, from 0 to ln 2
    logits: float  # root mean square difference of the logits, centered per example
    cka: float  # linear CKA of the logits; 1 if they are equal up to rotation and scale (Kornblith et al. 2019)
    errors: tuple[float, float]  # error rate of each model
    examples: int  # number of examples compared


@dataclass(frozen=True, eq=False)
class Alignment:
    """Model B with its hidden units permuted to match those of model A."""

    weights: Mapping[str, Array]  # weights of B after the permutation
    permutations: tuple[Ints, ...]  # for each free group, the new order of B's units
    groups: int  # number of permuted groups
    fixed: tuple[str, ...]  # reasons why other groups could not be permuted
    before: float  # ‖A − B‖ over the trainable tensors
    after: float  # ‖A − PB‖, with P the permutation
    output_change: float  # largest |f(PB) − f(B)| / largest |f(B)|, due to rounding; NaN without a model
    method: str

    def __repr__(self) -> str:
        fixed = f", others not permuted ({plural(len(self.fixed), 'reason')})" if self.fixed else ""
        change = "not checked" if math.isnan(self.output_change) else f"changed by {self.output_change:.1e}"
        moved = f"l2 distance {self.before:.4g} → {self.after:.4g}, output {change}"
        return f"aligned by {self.method}: {plural(self.groups, 'group')} permuted{fixed}; {moved}"
