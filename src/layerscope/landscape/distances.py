"""How far models are from each other in parameter space, and how far fresh initialisation alone would put them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UnknownName, UsageError
from layerscope.landscape.points import Opened, Tensor, named, pairs
from layerscope.numerics import geometry
from layerscope.rules import Apart, judge_landscape
from layerscope.types import Finding

if TYPE_CHECKING:
    from layerscope.types import Floats

KINDS = ("l2", "symmetric", "relative", "cosine", "rms")
INITS = ("torch", "he", "xavier")
APART = 0.95  # of the symmetric distance: as vectors that have nothing in common
TELLING = 400  # entries from which a tensor's cosine tells chance from kinship
CHANCE = 3.0  # standard deviations 1/√P of a cosine of independent weights


@dataclass(frozen=True, eq=False)
class Distances:
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
            return geometry.cosines(self.products)
        if kind == "symmetric":
            lengths = np.diagonal(self.products)
            with np.errstate(invalid="ignore"):
                return np.asarray(np.sqrt(self.squares / (lengths[:, None] + lengths[None])))
        if kind == "relative":
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(np.sqrt(self.squares / np.diagonal(self.products)[:, None]))
        if kind == "centred" and self.origin:
            return geometry.cosines(self.drift)
        if kind in self.without:
            return self.without[kind]
        raise UnknownName("distance", kind, self.kinds)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that :meth:`matrix` has."""
        return (*KINDS, *(["centred"] if self.origin else []), *self.without)

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
        found: Floats = linkage(squareform(finite, checks=False), "average", optimal_ordering=True)
        return found

    @property
    def findings(self) -> tuple[Finding, ...]:
        """LS306 and LS307."""
        symmetric = self.matrix("symmetric")
        every = [
            Apart((a, b), float(symmetric[i, j]), self.parts(a, b)[0], self._alike(i, j))
            for i, j in pairs(len(self.names))
            for a, b in [(self.names[i], self.names[j])]
        ]
        return judge_landscape(apart=tuple(every))

    def _alike(self, i: int, j: int) -> float:
        """Share of the weights whose cosine is above what chance gives independent ones."""
        told = []
        for name, shape in self.shapes.items():
            size, (one, other) = math.prod(shape), self.lengths[name][[i, j]]
            if len(shape) > 1 and size >= TELLING and one > 0 and other > 0:
                cosine = (one + other - self.tensors[name][i, j]) / (2 * math.sqrt(one * other))
                told.append(cosine > CHANCE / math.sqrt(size))
        return sum(told) / len(told) if told else math.nan

    def by_layer(self, a: str, b: str) -> dict[str, float]:
        """l2 distance of each module's tensors between two models: their squares add up to the whole.

        :raises UnknownName: no such model.
        """
        i, j = (self._at(name) for name in (a, b))
        found: dict[str, float] = {}
        for name, squares in self.tensors.items():
            module = name.rpartition(".")[0] or name
            found[module] = found.get(module, 0.0) + float(squares[i, j])
        return {module: math.sqrt(square) for module, square in found.items()}

    def parts(self, a: str, b: str) -> tuple[float, float]:
        """(share of the squared distance that is a difference of lengths, share that is angle)."""
        i, j = (self._at(name) for name in (a, b))
        one, other = (math.sqrt(max(0.0, float(self.products[k, k]))) for k in (i, j))
        whole = float(self.squares[i, j])
        length = min(1.0, (one - other) ** 2 / whole) if whole > 0 else 0.0
        return length, 1.0 - length if whole > 0 else 0.0

    def reading(self) -> list[str]:
        """What the distances say, in plain language."""
        symmetric, said = self.matrix("symmetric"), []
        every = [float(symmetric[i, j]) for i, j in pairs(len(self.names))]
        far = sum(value >= APART for value in every)
        if far == len(every):
            said.append("Every two are as far apart as vectors that have nothing in common (symmetric ≥ 0.95).")
        elif far:
            said.append(f"{far} of {len(every)} pairs have nothing in common (symmetric ≥ 0.95).")
        else:
            low, high = f"{min(every):.3g}", f"{max(every):.3g}"
            span = low if low == high else f"{low} to {high}"
            said.append(f"Symmetric distance {span}: 1 has nothing in common, 0 everything; norms' gains lower it.")
        measured = [float(value) for value in self.matrix("l2")[np.triu_indices(len(self.names), 1)]]
        mean, fresh = sum(measured) / len(measured), self.expected["torch"]
        if fresh > 0:
            said.append(f"Mean distance {mean:.4g}; two fresh models of torch's own initialiser: {fresh:.4g}.")
        said.append("Euclidean distance alone ranks nothing: decay shrinks it, and scales and orders of units do not "
                    "change what a model computes.")  # fmt: skip
        return said

    def _at(self, name: str) -> int:
        if name not in self.names:
            raise UnknownName("model", name, self.names)
        return self.names.index(name)

    def plot(self, kind: str = "l2", ax: Any = None) -> Any:
        """The matrix as a matplotlib figure, near models beside each other, and the tree in which they join."""
        from layerscope.views.plots import _landscape, drawn

        pictures = [_landscape.distance_matrix(self, kind), _landscape.distance_tree(self)]
        return drawn(pictures if ax is None else pictures[:1], ax)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; NaN becomes null."""
        plain = {kind: [[_plain(x) for x in row] for row in self.matrix(kind)] for kind in self.kinds}
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

    def __repr__(self) -> str:
        from layerscope.views.landscape import distances

        return distances(self)


def distances(
    models: Any,
    *,
    select: str = "learned",
    partial: bool = False,
    origin: Any = None,
    module: Any = None,
    x: Any = None,
) -> Distances:
    """Distances between any number of models, from files or live, in one pass and without a framework for files.

    :param models: two or more of what :func:`~layerscope.analyze` takes; a mapping gives them names.
    :param select: which tensors count: "learned", "weights" (two axes or more), "all" (statistics too), or a glob.
    :param partial: leave out tensors that not all have alike, and say which, instead of refusing.
    :param origin: the model that all others started from: distances from it, and cosines of the ways from it.
    :param module: a live module of the architecture, with a few inputs ``x``: distances without scale, and without
        scale and order of units, are added. All weights are held at once then.
    :raises UsageError: fewer than two models, or other tensors in them.
    """
    given = named(models)
    without = _without(given, module, x) if module is not None else {}
    count = len(given)
    every = given if origin is None else {**given, _apart_from(given): origin}
    total, drift, direct = (np.zeros((count, count)) for _ in range(3))
    by_tensor: dict[str, Floats] = {}
    lengths: dict[str, Floats] = {}
    params, expected, sizes = 0, dict.fromkeys(INITS, 0.0), {}
    with Opened(every, select, partial) as opened:
        fans = _fans(opened.tensors)
        for name, read in opened.each():
            vectors = read[:count]
            with np.errstate(over="ignore", invalid="ignore"):
                whole = geometry.gram(read)
            if not np.isfinite(np.diagonal(whole)).all():  # a square tells without another pass
                bad = [model for model, v in zip(opened.names, read, strict=True) if not np.isfinite(_extreme(v))]
                why = f"of {', '.join(bad)} has values that are not finite" if bad else "has squares beyond float64"
                raise UsageError(f"{name} {why}")
            products = whole[:count, :count]
            squares = geometry.squared_distances(products)
            for i, j in geometry.lost(products):
                squares[i, j] = squares[j, i] = _direct(vectors[i], vectors[j])
            if origin is not None:
                drift += geometry.gram([np.asarray(v, np.float64) - read[-1] for v in vectors])
            total += products
            direct += squares
            by_tensor[name], lengths[name] = squares, np.diagonal(products).copy()
            params += vectors[0].size
            sizes[name] = opened.tensors[name].shape
            for init in INITS:
                expected[init] += _fresh(opened.tensors[name], init, fans)
        named_origin = "" if origin is None else str(origin) if isinstance(origin, str | PurePath) else "the origin"
        return Distances(
            opened.names[:count], select, params, by_tensor, lengths, total, direct,
            {init: math.sqrt(value) for init, value in expected.items()}, opened.left_out, without, sizes,
            named_origin, drift,
        )  # fmt: skip


def _apart_from(given: Mapping[str, Any]) -> str:
    """A name that no model has."""
    name = "the origin"
    while name in given:
        name += "'"
    return name


def _without(given: Mapping[str, Any], module: Any, x: Any) -> dict[str, Floats]:
    """Symmetric distances of canonical forms, and of these aligned pair by pair: upper bounds of the true minimum."""
    from layerscope.landscape.align import align
    from layerscope.landscape.canonical import canonical
    from layerscope.landscape.weights import learned_of

    if x is None:
        raise UsageError("distances without scale and order need a few inputs: x=…")
    forms = [canonical(module, model, x) for model in given.values()]
    found = {kind: np.zeros((len(forms), len(forms))) for kind in ("scale", "order")}
    for i, j in pairs(len(forms)):
        moved = align(module, forms[i], forms[j], x).weights
        for kind, other in (("scale", forms[j]), ("order", moved)):
            learned = learned_of(forms[i])
            vectors = [np.concatenate([form[name].reshape(-1) for name in learned]) for form in (forms[i], other)]
            products = geometry.gram(vectors)
            apart = _direct(vectors[0], vectors[1])
            found[kind][i, j] = found[kind][j, i] = math.sqrt(apart / max(float(np.trace(products)), 1e-300))
    return found


def _direct(a: Any, b: Any) -> float:
    """‖a − b‖², a block at a time."""
    total = 0.0
    for at in range(0, a.size, geometry.BLOCK):
        piece = slice(at, at + geometry.BLOCK)
        total += float(np.square(np.asarray(a[piece], np.float64) - np.asarray(b[piece], np.float64)).sum())
    return total


def _extreme(vector: Any) -> float:
    """A number that is finite where all entries are."""
    if not vector.size:
        return 0.0
    return sum(
        float(np.abs(np.asarray(vector[at : at + geometry.BLOCK], np.float64)).max())
        for at in range(0, vector.size, geometry.BLOCK)
    )


def _fans(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Inputs of each unit of a module, by the module's name: what its bias is drawn by too."""
    found: dict[str, int] = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) >= 2 and tensor.ref.axes:
            sizes = dict(zip(tensor.ref.axes, tensor.shape, strict=False))
            found[name.rpartition(".")[0]] = max(1, math.prod(tensor.shape) // max(1, sizes.get("o", 1)))
    return found


def _fresh(tensor: Tensor, init: str, fans: Mapping[str, int]) -> float:
    """E‖a − b‖² of two fresh copies of a tensor: twice its entries' variance, summed.

    torch: U(±1/√fan_in) of weights and biases, N(0, 1) of embeddings, constants of norms; he: N(0, 2/fan_in); xavier:
    variance 2/(fan_in + fan_out), biases zero.
    """
    module = tensor.name.rpartition(".")[0]
    size = math.prod(tensor.shape)
    if tensor.ref.kind == "embedding":
        return 2.0 * size
    if len(tensor.shape) < 2:
        is_bias = init == "torch" and tensor.name.endswith("bias") and module in fans
        return 2.0 * size / (3 * fans[module]) if is_bias else 0.0
    fan_in = fans.get(module, 1)
    fan_out = max(1, size // fan_in) * math.prod(tensor.shape[2:])
    variance = {"torch": 1 / (3 * fan_in), "he": 2 / fan_in, "xavier": 2 / (fan_in + fan_out)}[init]
    return 2.0 * size * variance


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
