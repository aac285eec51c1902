"""All tensors of two models that belong together, matched by name: weights, embeddings, norms and biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.records.layers import LayerRef
from layerscope.records.sources import Source
from layerscope.sources.adapters.lora_factors import Factors
from layerscope.sources.opening import open_target
from layerscope.sources.readers.lora import AdapterSource
from layerscope.sources.targets import Composed, make_spec, short_name
from layerscope.tensor_names import matching_keys

if TYPE_CHECKING:
    from layerscope.array_types import Array

PLUGIN_NAME, PORTABLE = "pairs", True
UNREAD_KINDS = ("integer", "optimizer", "copy", "mask", "factor")
VECTOR_KINDS = ("norm", "bias", "buffer", "scale")  # compared too, though they have no spectrum


@dataclass(frozen=True)
class Pairs(Composed):
    """A model and its base, or an adapter and the model that it was trained on."""

    tuned: Any
    base: Any
    adapter: Any = None  # that should be merged into the model

    def __str__(self) -> str:
        return f"{short_name(self.tuned)} against {short_name(self.base)}"


def accepts(target: Any) -> bool:
    """Return whether the target is a Pairs."""
    return isinstance(target, Pairs)


def open(target: Pairs) -> PairSource:
    """Open both models and match their tensors."""
    adapter = None if target.adapter is None else open_target(target.adapter)
    if adapter is not None and not isinstance(adapter, AdapterSource):
        raise Unreadable(f"{target.adapter}: not a LoRA adapter; pass the folder that PEFT saved")
    return PairSource(target, open_target(target.tuned), open_target(target.base), adapter)


class PairSource:
    """Tensors that both models have; every other tensor is listed with the reason why it is not compared."""

    def __init__(self, target: Pairs, tuned: Source, base: Source, adapter: AdapterSource | None = None) -> None:
        self.spec = make_spec(target, PLUGIN_NAME, portable=True, parts=(tuned.spec, base.spec))
        self.adapter = adapter
        self.tuned, self.base = tuned, base
        self.is_adapter = isinstance(tuned, AdapterSource)
        tuned_refs, base_refs = list(tuned.layers()), list(base.layers())
        self._pairs: dict[str, tuple[LayerRef, LayerRef]] = {}
        keys, base_keys = self._match_names(tuned_refs, base_refs)
        base_by_key = {base_keys[ref.name]: ref for ref in base_refs}
        rows = [self._match(ref, base_by_key.get(keys[ref.name])) for ref in tuned_refs]
        known = {_module(base_ref.tensor) for _, base_ref in self._pairs.values()}
        factors = adapter.factors.values() if adapter is not None else ()
        self._factors = {_suffix_in(f.stem, known): f for f in factors if not f.fault()}
        if adapter is not None and not known & self._factors.keys():
            raise Unreadable(
                f"{target.adapter}: none of its modules is in {target.base}; pass the adapter of this model"
            )
        if not self._pairs:
            names = [", ".join(ref.name for ref in refs[:2]) or "no tensors" for refs in (tuned_refs, base_refs)]
            raise Unreadable(
                f"{target}: no tensor in common: {names[0]} … against {names[1]} …; pass two models of one architecture"
            )
        matched = {self._pairs[name][1].name for name in self._pairs}
        seen = {ref.name for ref in rows}
        rest = [ref for ref in base_refs if ref.name not in matched and ref.name not in seen]
        if not self.is_adapter:
            rows += [_left_out(ref, "only in the base model") for ref in rest]
        self._layers = [replace(ref, index=i) for i, ref in enumerate(rows)]

    def layers(self) -> Iterator[LayerRef]:
        """Return every tensor of the tuned model, then those that only the base has."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """Return W − W₀ in float64, or the low-rank core of an adapter."""
        base, tuned = self.both(ref)
        return tuned if ref.rank else np.subtract(tuned, base, dtype=np.float64)

    def both(self, ref: LayerRef) -> tuple[Array, Array]:
        """Return W₀ and W as stored; for an adapter, W₀ and the core (rank, rank) of s·B·A."""
        tuned_ref, base_ref = self._pairs[ref.name]
        base = np.asarray(self.base.read(replace(base_ref, rank=0)))
        factors = self._more_than_a_product(tuned_ref)
        if factors is not None:
            assert isinstance(self.tuned, AdapterSource)
            return base, np.asarray(self.tuned.merged(factors, base, base_ref.axes.startswith("i")))
        return base, np.asarray(self.tuned.read(tuned_ref))

    def refs(self, ref: LayerRef) -> tuple[LayerRef, LayerRef]:
        """Return the references of a row in the tuned model and in the base."""
        return self._pairs[ref.name]

    @staticmethod
    def is_unread(ref: LayerRef) -> bool:
        """Return whether a skipped row holds no values of the model, such as an index or a state of the optimizer."""
        return ref.kind not in VECTOR_KINDS and (ref.kind in UNREAD_KINDS or not _is_float(ref))

    def adapter_update(self, ref: LayerRef, base: Array) -> Array | None:
        """Return what merging the adapter adds to one tensor, in float64, or None if the adapter has none for it."""
        factors = self._factors.get(_module(self._pairs[ref.name][1].tensor))
        if factors is None or self.adapter is None or ref.part is not None or ref.expert is not None:
            return None
        merged = self.adapter.merged(factors, base, ref.axes.startswith("i"))
        return np.asarray(merged, np.float64) - np.asarray(base, np.float64)

    def _match_names(
        self, tuned: list[LayerRef], base: list[LayerRef]
    ) -> tuple[Mapping[str, str], Mapping[str, str]]:  # fmt: skip
        if not self.is_adapter:
            keys, base_keys = matching_keys([ref.name for ref in tuned], [ref.name for ref in base])
            return keys, base_keys
        assert isinstance(self.tuned, AdapterSource)
        factors = self.tuned.factors
        stems = {ref.name: factors[ref.tensor].stem if ref.tensor in factors else _module(ref.name) for ref in tuned}
        base_stems = {ref.name: _module(ref.name) for ref in base}
        known = set(base_stems.values())
        return {name: _suffix_in(stem, known) for name, stem in stems.items()}, base_stems

    def _match(self, ref: LayerRef, base_ref: LayerRef | None) -> LayerRef:
        if _is_unread(ref) and self._more_than_a_product(ref) is None:
            return _left_out(ref, ref.skipped)
        if base_ref is None:
            return _left_out(ref, "the base model has no tensor with this name")
        if _is_unread(base_ref):
            return _left_out(ref, f"in the base model: {base_ref.skipped}")
        if ref.shape != base_ref.shape and not (ref.rank and sorted(ref.shape) == sorted(base_ref.shape)):
            shapes = ("×".join(map(str, r.shape)) or "·" for r in (ref, base_ref))
            return _left_out(ref, "its shape is {}, but {} in the base model".format(*shapes))
        if ref.part != base_ref.part or (ref.axes and base_ref.axes and ref.axes != base_ref.axes and not ref.rank):
            return _left_out(ref, "stored differently in the base model (heads or axes)")
        self._pairs[ref.name] = (ref, base_ref)
        if self._more_than_a_product(ref) is not None:
            return replace(base_ref, name=ref.name, skipped="", derived="delta", how="adapter merged into its base")
        return replace(ref, skipped="", derived="delta", how="" if ref.rank else ref.how)

    def _more_than_a_product(self, ref: LayerRef) -> Factors | None:
        """Return the factors of an adapted module whose update is not s·B·A alone.

        DoRA rescales the rows of the merged weight; PiSSA and its relatives change the base weight first.
        """
        if not isinstance(self.tuned, AdapterSource):
            return None
        factors = self.tuned.factors.get(ref.tensor)
        if factors is None or factors.fault():
            return None
        return factors if "magnitude" in factors.tensors or self.tuned.residual is not None else None


def _is_unread(ref: LayerRef) -> bool:
    """Whether a tensor holds no values of the model: codes, indices, optimizer state, or something unreadable."""
    return bool(ref.skipped) and not (ref.kind in VECTOR_KINDS and _is_float(ref))


def _is_float(ref: LayerRef) -> bool:
    return "float" in ref.dtype


def _left_out(ref: LayerRef, reason: str) -> LayerRef:
    return replace(ref, axes="", rank=0, skipped=reason or "not compared")


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _suffix_in(stem: str, known: set[str]) -> str:
    """Return the module of the base that a stem names, also below a prefix such as base_model.model."""
    words = stem.split(".")
    return next((tail for i in range(len(words)) if (tail := ".".join(words[i:])) in known), stem)
