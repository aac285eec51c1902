"""Each layer beside its canonical form: the same function with the free scales of its units removed.

Three transformations leave the function of a network as it is, and each has a canonical form that a file shows:

- a batch norm after a layer: its scale γ/√(σ²+ε) is multiplied into the rows of the layer (folding);
- the hidden units of a gated MLP (up and down) and of a plain chain of layers with ReLUs: each unit gets the same norm
  of incoming and outgoing weights (balancing);
- queries and keys, values and outputs of a head: only WqᵀWk and WoWv matter. Their singular values replace λ.

Sources: Dinh et al., ICML 2017; Stock et al., ICLR 2019 (equi-normalization); Ioffe & Szegedy, ICML 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.records.layers import LayerRef
from layerscope.records.sources import HasFacts, Source
from layerscope.sources.opening import open_target
from layerscope.sources.targets import Composed, make_spec, name_of
from layerscope.tensor_roles import block_of, role_of

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

PLUGIN_NAME, PORTABLE = "canonical", True
CANONICAL_ROLE = "canonical"
VARIANCES = ("running_var", "moving_variance")  # of a batch norm
SCALES = ("weight", "gamma")
EPSILON = 1e-5  # of a batch norm, added to the variance
MAX_CHAIN = 64  # layers of a plain network that are balanced
NOT_IN_CHAINS = ("norm", "embedding", "lstm", "gru", "rnn", "attention")
MAX_SWEEPS = 200
CONVERGED = 1e-6  # largest change of a unit's scale in the last sweep
NAMES_OF_NORMS = (("conv", "bn"), ("conv", "norm"), ("fc", "bn"), ("linear", "bn"))
Form = Callable[[], "Array"]


@dataclass(frozen=True)
class Canonical(Composed):
    """A model whose layers are measured as stored and in their canonical form."""

    target: Any

    def __str__(self) -> str:
        return name_of(self.target)


def accepts(target: Any) -> bool:
    """Return whether the target is a Canonical."""
    return isinstance(target, Canonical)


def open(target: Canonical) -> CanonicalSource:
    """Open the model and find the canonical form of its layers."""
    return CanonicalSource(target, open_target(target.target))


class CanonicalSource:
    """Every layer of the model; each with a known canonical form has a second row with the role "canonical"."""

    def __init__(self, target: Canonical, model: Source) -> None:
        self.spec = make_spec(target, PLUGIN_NAME, portable=True, parts=(model.spec,))
        self.model = model
        refs = list(model.layers())
        self._forms: dict[str, tuple[LayerRef, Form]] = {}
        weights = [ref for ref in refs if not ref.skipped]
        self._add_products(weights)
        self._add_gated_pairs(weights)
        self._add_folded_norms(refs)
        self._add_plain_chain(refs, weights)
        self._chain_scales: list[Floats] | None = None
        self._layers = list(self._rows(refs))

    def layers(self) -> Iterator[LayerRef]:
        """Return every tensor of the model, each layer followed by its canonical form."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """Return the stored tensor, or its canonical form in float64."""
        return self._forms[ref.name][1]() if ref.role == CANONICAL_ROLE else self.model.read(ref)

    def facts(self, ref: LayerRef) -> Mapping[str, float]:
        """Return the facts of the model's layer."""
        has_facts = isinstance(self.model, HasFacts) and ref.role != CANONICAL_ROLE
        return self.model.facts(ref) if has_facts else {}  # type: ignore[attr-defined]

    def _rows(self, refs: Sequence[LayerRef]) -> Iterator[LayerRef]:
        for ref in refs:
            yield ref
            if ref.name in self._forms:
                yield self._forms[ref.name][0]

    def _add(self, ref: LayerRef, how: str, form: Form, **changes: Any) -> None:
        if ref.name not in self._forms:
            row = replace(ref, role=CANONICAL_ROLE, how=how, rank=0, part=None, expert=None, **changes)
            self._forms[ref.name] = (row, form)

    def _read(self, ref: LayerRef) -> Floats:
        """Read a layer as (outputs, everything else) in float64."""
        tensor = np.asarray(self.model.read(ref), np.float64)
        return np.moveaxis(tensor, ref.axes.index("o"), 0).reshape(ref.shape[ref.axes.index("o")], -1)

    # --- attention ---------------------------------------------------------------------------------------------------

    def _add_products(self, weights: Sequence[LayerRef]) -> None:
        """Find the projections of each attention block whose number of heads is known."""
        blocks: dict[tuple[str, int | None], dict[str, LayerRef]] = {}
        for ref in weights:
            role = _role(ref)
            if role.startswith("attention") and ref.heads and set(ref.axes) == {"o", "i"}:
                parent = ref.tensor.split(".")[:2]
                blocks.setdefault((".".join(parent[:1]), block_of(ref.name)), {}).setdefault(role, ref)
        for parts in blocks.values():
            query, key = parts.get("attention query"), parts.get("attention key")
            value, output = parts.get("attention value"), parts.get("attention output")
            if query and key and _heads_fit(query, key):
                for ref in (query, key):
                    self._add_product(ref, query, key, "WqᵀWk of each head")
            if value and output and _heads_fit(output, value):
                for ref in (output, value):
                    self._add_product(ref, output, value, "WoWv of each head")

    def _add_product(self, ref: LayerRef, many: LayerRef, few: LayerRef, how: str) -> None:
        size = _head_size(ref)
        form = partial(self._read_product, many, few, ref is few and many.heads > few.heads)
        self._add(ref, how, form, shape=(ref.heads * size, size), axes="oi", groups=ref.heads, dtype="float64")

    def _read_product(self, many: LayerRef, few: LayerRef, grouped: bool) -> Array:
        """Return one diagonal matrix √σ per head, σ the singular values of its product; heads below each other."""
        first, second = self._heads_of(many), self._heads_of(few)
        share = len(first) // len(second)
        if grouped:  # one key or value serves several queries or outputs
            grams = np.einsum("gsij,gskj->gik", *(2 * (first.reshape(len(second), share, *first.shape[1:]),)))
            pairs = [(_root(gram), head) for gram, head in zip(grams, second, strict=True)]
        else:
            pairs = [(_root(head @ head.T), second[i // share]) for i, head in enumerate(first)]
        values = [np.linalg.svd(root @ head, compute_uv=False) for root, head in pairs]
        return np.concatenate([np.diag(np.sqrt(sigma)) for sigma in values])

    def _heads_of(self, ref: LayerRef) -> Floats:
        """Return the weights of each head, (heads, head size, model size)."""
        matrix = self._read(ref)
        matrix = matrix if ref.heads_on == "o" else matrix.T
        return matrix.reshape(ref.heads, -1, matrix.shape[1])

    # --- MLPs --------------------------------------------------------------------------------------------------------

    def _add_gated_pairs(self, weights: Sequence[LayerRef]) -> None:
        """Find the up and down projections of gated MLPs: the up projection enters linearly, so its scale is free."""
        blocks: dict[tuple[str, int | None], dict[str, list[LayerRef]]] = {}
        for ref in weights:
            role = _role(ref)
            if role.startswith("MLP") and set(ref.axes) == {"o", "i"} and len(ref.shape) == 2:
                parent = ".".join(ref.tensor.split(".")[:-2])
                blocks.setdefault((parent, ref.expert), {}).setdefault(role, []).append(ref)
        for parts in blocks.values():
            if all(len(parts.get(f"MLP {name}", ())) == 1 for name in ("gate", "up", "down")):
                up, down = parts["MLP up"][0], parts["MLP down"][0]
                if _size(up, "o") == _size(down, "i"):
                    for ref in (up, down):
                        form = partial(self._read_balanced, up, down, ref is up)
                        self._add(ref, "units balanced", form, axes="oi", shape=(_size(ref, "o"), _size(ref, "i")))

    def _read_balanced(self, up: LayerRef, down: LayerRef, wants_up: bool) -> Array:
        first, second = self._read(up), self._read(down)
        scale = _ratio(np.linalg.norm(second, axis=0), np.linalg.norm(first, axis=1)) ** 0.5
        return first * scale[:, None] if wants_up else second / scale

    # --- batch norms -------------------------------------------------------------------------------------------------

    def _add_folded_norms(self, refs: Sequence[LayerRef]) -> None:
        """Find the batch norm of each layer: by its name, or as the only one before the next layer."""
        by_tensor = {ref.tensor: ref for ref in refs}
        variances = [(i, ref) for i, ref in enumerate(refs) if ref.tensor.rpartition(".")[2] in VARIANCES
                     or ref.tensor.rpartition("/")[2] in VARIANCES]  # fmt: skip
        positions = [i for i, ref in enumerate(refs) if not ref.skipped]
        following = dict(pairwise([*positions, len(refs)]))
        taken: set[str] = set()
        for i in positions:
            ref = refs[i]
            if "o" not in ref.axes or ref.groups > 1 or ref.part is not None or ref.expert is not None:
                continue
            size = (ref.shape[ref.axes.index("o")],)
            named = [by_tensor[name] for name in _norm_names(ref.tensor) if name in by_tensor]
            between = [v for j, v in variances if i < j < following[i]]
            found = [v for v in (*named[:1], *(between if len(between) == 1 else ())) if v.shape == size]
            if found and found[0].tensor not in taken:
                taken.add(found[0].tensor)
                scale = [s for word in SCALES if (s := by_tensor.get(_sibling(found[0].tensor, word))) is not None]
                gamma = scale[0] if scale and scale[0].shape == size else None
                self._add(ref, "batch norm folded", partial(self._read_folded, ref, found[0], gamma))

    def _read_folded(self, ref: LayerRef, variance: LayerRef, gamma: LayerRef | None) -> Array:
        tensor = np.asarray(self.model.read(ref), np.float64)
        scale = 1 / np.sqrt(np.maximum(np.asarray(self.model.read(variance), np.float64), 0) + EPSILON)
        if gamma is not None:
            scale = scale * np.asarray(self.model.read(gamma), np.float64)
        shape = [1] * tensor.ndim
        shape[ref.axes.index("o")] = -1
        folded: Array = tensor * scale.reshape(shape)
        return folded

    # --- plain chains ------------------------------------------------------------------------------------------------

    def _add_plain_chain(self, refs: Sequence[LayerRef], weights: Sequence[LayerRef]) -> None:
        """Find out whether the layers form one chain, each reading all outputs of the one before, with nothing else."""
        whole = all({"o", "i"} <= {*ref.axes} and ref.part is None and ref.expert is None and ref.groups == 1
                    for ref in weights)  # fmt: skip
        others = self._forms or any(ref.kind in NOT_IN_CHAINS for ref in refs)
        if others or not whole or not 2 <= len(weights) <= MAX_CHAIN:
            return
        if any(_size(after, "i") % _size(before, "o") for before, after in pairwise(weights)):
            return
        for number, ref in enumerate(weights):
            self._add(
                ref, "units balanced, if the activations are ReLUs", partial(self._read_in_chain, weights, number)
            )

    def _read_in_chain(self, weights: Sequence[LayerRef], number: int) -> Array:
        if self._chain_scales is None:
            self._chain_scales = self._balance_chain(weights)
        ref = weights[number]
        tensor = np.asarray(self.model.read(ref), np.float64)
        if number < len(weights) - 1:
            tensor = _scale_axis(tensor, ref.axes.index("o"), self._chain_scales[number])
        if number:
            tensor = _scale_axis(tensor, ref.axes.index("i"), 1 / self._chain_scales[number - 1])
        return tensor

    def _balance_chain(self, weights: Sequence[LayerRef]) -> list[Floats]:
        """Return the factor of each unit between two layers that makes its incoming and outgoing norms equal."""
        squares = []
        for ref in weights:
            tensor = np.square(np.asarray(self.model.read(ref), np.float64))
            axes = [ref.axes.index("o"), ref.axes.index("i")]
            rest = tuple(axis for axis in range(tensor.ndim) if axis not in axes)
            flat = tensor.sum(rest) if rest else tensor
            squares.append(flat if axes[0] < axes[1] else flat.T)
        scales = [np.ones(len(square)) for square in squares[:-1]]
        for _ in range(MAX_SWEEPS):
            change = 0.0
            for i, scale in enumerate(scales):
                incoming = squares[i] @ (1 / _repeat(scales[i - 1], squares[i].shape[1]) ** 2 if i else
                                         np.ones(squares[i].shape[1]))  # fmt: skip
                last = i == len(scales) - 1
                outgoing = (np.ones(len(squares[i + 1])) if last else scales[i + 1] ** 2) @ squares[i + 1]
                outgoing = outgoing.reshape(len(scale), -1).sum(1)
                fresh = _ratio(outgoing, incoming) ** 0.25
                change = max(change, float(np.abs(np.log(fresh / scale)).max(initial=0.0)))
                scales[i] = fresh
            if change < CONVERGED:
                break
        return scales


def _role(ref: LayerRef) -> str:
    return role_of(ref.name, ref.kind, ref.shape, ref.axes, ref.groups)


def _size(ref: LayerRef, axis: str) -> int:
    return ref.shape[ref.axes.index(axis)]


def _head_size(ref: LayerRef) -> int:
    return _size(ref, ref.heads_on) // ref.heads


def _heads_fit(many: LayerRef, few: LayerRef) -> bool:
    """Whether the heads have one size, and each of ``few`` serves the same number of ``many``."""
    return many.heads % few.heads == 0 and _head_size(many) == _head_size(few)


def _root(gram: Floats) -> Floats:
    """Return a matrix R with RᵀR = gram."""
    values, vectors = np.linalg.eigh(gram)
    root: Floats = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    return root


def _ratio(above: Floats, below: Floats) -> Floats:
    """Return above / below, or 1 where either is zero: dead units have no scale."""
    alive = (above > 0) & (below > 0)
    return np.divide(above, below, out=np.ones_like(above), where=alive)


def _repeat(scale: Floats, size: int) -> Floats:
    """Return one factor per input: a flattened image has several inputs per unit."""
    return np.repeat(scale, size // len(scale))


def _scale_axis(tensor: Array, axis: int, factors: Floats) -> Array:
    shape = [1] * tensor.ndim
    shape[axis] = -1
    scaled: Array = tensor * _repeat(factors, tensor.shape[axis]).reshape(shape)
    return scaled


def _sibling(tensor: str, word: str) -> str:
    """Return the name of another tensor of the same module."""
    separator = "/" if "/" in tensor.rpartition(".")[2] or "." not in tensor else "."
    return f"{tensor.rpartition(separator)[0]}{separator}{word}"


def _norm_names(tensor: str) -> list[str]:
    """Return the names that the variance of a layer's batch norm may have: bn1 for conv1, stem.1 for stem.0."""
    module = tensor.rpartition(".")[0]
    parent, _, word = module.rpartition(".")
    words = [word.replace(layer, norm) for layer, norm in NAMES_OF_NORMS if word.startswith(layer)]
    if word.isdecimal():
        words.append(str(int(word) + 1))
    return [".".join(filter(None, (parent, norm, "running_var"))) for norm in words]
