"""The difference of two models, W − W₀: layers are matched by name, never by order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Absent, Unreadable
from layerscope.records.layers import LayerRef
from layerscope.records.sources import Source
from layerscope.sources.layouts.torch_names import number
from layerscope.sources.opening import open_target
from layerscope.sources.targets import Composed, short, spec
from layerscope.tensor_names import matching_keys

if TYPE_CHECKING:
    from layerscope.array_types import Array

PLUGIN_NAME, PORTABLE = "delta", True


@dataclass(frozen=True)
class Delta(Composed):
    """What ``target`` learned since ``base``."""

    target: Any
    base: Any

    def __str__(self) -> str:
        return f"{short(self.target)} minus {short(self.base)}"


def accepts(target: Any) -> bool:
    """A Delta."""
    return isinstance(target, Delta)


def open(target: Delta) -> DeltaSource:
    """Open both models and match their layers."""
    return DeltaSource(target, open_target(target.target), open_target(target.base))


class DeltaSource:
    """Layers of the model that are in the base too; the others are listed with the reason."""

    def __init__(self, target: Delta, model: Source, base: Source) -> None:
        self.spec = spec(target, PLUGIN_NAME, portable=True, parts=(model.spec, base.spec))
        self.model, self.base = model, base
        mine, others = list(model.layers()), list(base.layers())
        self._keys, keys = matching_keys([ref.name for ref in mine], [ref.name for ref in others])
        theirs = {keys[ref.name]: ref for ref in others}
        self._pairs: dict[str, tuple[LayerRef, LayerRef]] = {}
        rows = [self._match(ref, theirs) for ref in mine]
        if not self._pairs:
            usable = [[ref.name for ref in refs if ref.axes] for refs in (rows, theirs.values())]
            names = [f"{', '.join(some[:2])} …" if some else "no layers" for some in usable]
            raise Unreadable(f"{target}: no layer in common: {' against '.join(names)}")
        known = set(self._keys.values())
        alone = [ref for name, ref in theirs.items() if name not in known]
        self._layers = number(
            [*rows, *(replace(ref, skipped=ref.skipped or "only in the base model") for ref in alone)]
        )

    def layers(self) -> Iterator[LayerRef]:
        """Every tensor of the model, then those of the base alone."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """W − W₀ in the wider of float32 and the weights' own precision.

        :raises Absent: nothing changed.
        """
        a, b = self.both(ref)
        wide = np.float64 if np.float64 in (a.dtype, b.dtype) else np.float32
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told when it is analysed
            difference = np.subtract(a.astype(wide), b.astype(wide))
        if not difference.any():
            raise Absent("the same as in the base model", failed=False)
        return difference

    def both(self, ref: LayerRef) -> tuple[Array, Array]:
        """W and W₀."""
        mine, theirs = self._pairs[ref.name]
        a = self.model.read(replace(mine, rank=0))  # a low-rank core has a basis of its own
        return np.asarray(a), np.asarray(self.base.read(replace(theirs, rank=0)))

    def _match(self, ref: LayerRef, theirs: dict[str, LayerRef]) -> LayerRef:
        if ref.skipped:
            return ref
        other = theirs.get(self._keys[ref.name])
        if other is None:
            return replace(ref, skipped="the base model has no layer of this name")
        if other.skipped:
            return replace(ref, skipped=f"in the base model: {other.skipped}")
        fused = other.part is not None and ref.part is not None and other.part != ref.part
        if (other.shape, other.axes) != (ref.shape, ref.axes) or fused:
            if other.shape == ref.shape:
                return replace(ref, skipped="lies otherwise in its tensor than in the base model (other heads or axes)")
            shapes = ("×".join(map(str, r.shape)) for r in (ref, other))
            return replace(ref, skipped="its shape is {} here and {} in the base model".format(*shapes))
        self._pairs[ref.name] = (ref, other)
        wide = "float64" if "float64" in (ref.dtype, other.dtype) else "float32"
        return replace(
            ref, rank=0, dtype=wide, derived="delta", how=", ".join(filter(None, (ref.how, "minus the base model")))
        )
