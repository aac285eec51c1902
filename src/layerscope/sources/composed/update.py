"""The weight update between two models, ΔW = W − W₀; layers are matched by name, never by order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Absent, Unreadable
from layerscope.records.layers import LayerRef
from layerscope.records.sources import Source
from layerscope.sources.layouts.torch_names import number_layers
from layerscope.sources.opening import open_target
from layerscope.sources.targets import Composed, make_spec, short_name
from layerscope.tensor_names import matching_keys

if TYPE_CHECKING:
    from layerscope.array_types import Array

PLUGIN_NAME, PORTABLE = "delta", True


@dataclass(frozen=True)
class Delta(Composed):
    """The update to the weights of ``base`` that gives ``target``."""

    target: Any
    base: Any

    def __str__(self) -> str:
        return f"{short_name(self.target)} minus {short_name(self.base)}"


def accepts(target: Any) -> bool:
    """Return whether the target is a Delta."""
    return isinstance(target, Delta)


def open(target: Delta) -> DeltaSource:
    """Open both models and match their layers."""
    return DeltaSource(target, open_target(target.target), open_target(target.base))


class DeltaSource:
    """Layers that are in both the model and its base; other layers are skipped, with the reason."""

    def __init__(self, target: Delta, model: Source, base: Source) -> None:
        self.spec = make_spec(target, PLUGIN_NAME, portable=True, parts=(model.spec, base.spec))
        self.model, self.base = model, base
        model_refs, base_refs = list(model.layers()), list(base.layers())
        self._keys, base_keys = matching_keys([ref.name for ref in model_refs], [ref.name for ref in base_refs])
        base_by_key = {base_keys[ref.name]: ref for ref in base_refs}
        self._pairs: dict[str, tuple[LayerRef, LayerRef]] = {}
        rows = [self._match(ref, base_by_key) for ref in model_refs]
        if not self._pairs:
            usable = [[ref.name for ref in refs if ref.axes] for refs in (rows, base_by_key.values())]
            names = [f"{', '.join(some[:2])} …" if some else "no layers" for some in usable]
            raise Unreadable(
                f"{target}: no layer in common: {' against '.join(names)}; pass two models of the same architecture"
            )
        matched_keys = set(self._keys.values())
        base_only = [ref for key, ref in base_by_key.items() if key not in matched_keys]
        self._layers = number_layers(
            [*rows, *(replace(ref, skipped=ref.skipped or "only in the base model") for ref in base_only)]
        )

    def layers(self) -> Iterator[LayerRef]:
        """Return every tensor of the model, then those that only the base has."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """Return W − W₀ in float32, or in float64 if a model stores float64.

        :raises Absent: the two layers are identical.
        """
        a, b = self.both(ref)
        wide = np.float64 if np.float64 in (a.dtype, b.dtype) else np.float32
        with np.errstate(over="ignore", invalid="ignore"):  # the analysis reports non-finite entries
            difference = np.subtract(a.astype(wide), b.astype(wide))
        if not difference.any():
            raise Absent("unchanged from the base model", failed=False)
        return difference

    def both(self, ref: LayerRef) -> tuple[Array, Array]:
        """Return W and W₀."""
        model_ref, base_ref = self._pairs[ref.name]
        weight = self.model.read(replace(model_ref, rank=0))  # the basis of a low-rank core differs between models
        return np.asarray(weight), np.asarray(self.base.read(replace(base_ref, rank=0)))

    def _match(self, ref: LayerRef, base_by_key: dict[str, LayerRef]) -> LayerRef:
        if ref.skipped:
            return ref
        base_ref = base_by_key.get(self._keys[ref.name])
        if base_ref is None:
            return replace(ref, skipped="the base model has no layer with this name")
        if base_ref.skipped:
            return replace(ref, skipped=f"skipped in the base model: {base_ref.skipped}")
        is_other_part = base_ref.part is not None and ref.part is not None and base_ref.part != ref.part
        if (base_ref.shape, base_ref.axes) != (ref.shape, ref.axes) or is_other_part:
            if base_ref.shape == ref.shape:
                return replace(ref, skipped="stored differently in the base model (heads or axes)")
            shapes = ("×".join(map(str, r.shape)) for r in (ref, base_ref))
            return replace(ref, skipped="its shape is {}, but {} in the base model".format(*shapes))
        self._pairs[ref.name] = (ref, base_ref)
        wide = "float64" if "float64" in (ref.dtype, base_ref.dtype) else "float32"
        return replace(
            ref, rank=0, dtype=wide, derived="delta", how=", ".join(filter(None, (ref.how, "minus the base model")))
        )
