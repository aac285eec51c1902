"""A base model with its LoRA adapter added, W + s·B·A in full."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.numerics.matrices import pick, take
from layerscope.records.layers import LayerRef
from layerscope.records.sources import Source
from layerscope.sources.adapters import lora_factors
from layerscope.sources.adapters.lora_factors import Factors
from layerscope.sources.layouts.torch_names import number
from layerscope.sources.targets import Composed, short, spec

if TYPE_CHECKING:
    from layerscope.array_types import Array
    from layerscope.sources.readers.lora import AdapterSource


@dataclass(frozen=True)
class Merged(Composed):
    """An adapter added to its base model."""

    adapter: Any
    base: Any

    def __str__(self) -> str:
        return f"{short(self.base)} with {short(self.adapter)}"


class MergedSource:
    """The adapted layers of the base model with their adapters added; the others are listed as not adapted."""

    def __init__(self, target: Merged, adapter: AdapterSource, base: Source) -> None:
        self.spec = spec(target, "lora", portable=True, parts=(adapter.spec, base.spec))
        self.adapter, self.base = adapter, base
        refs = list(base.layers())
        stems = {ref.tensor.removesuffix(".weight") for ref in refs}
        self._owner: dict[str, Factors] = {}
        for factors in adapter.factors.values():
            owner = _match(factors.stem, stems)
            if not factors.fault() and owner in self._owner:
                both = f"{self._owner[owner].label} and {factors.label}"
                raise Unreadable(f"{target}: {both} are both for {owner}; analyse one adapter at a time")
            if not factors.fault():
                self._owner[owner] = factors
        self._saved = {_match(_saved_name(ref.tensor), stems): ref for ref in adapter.others if not ref.skipped}
        rows = [self._row(ref) for ref in refs]
        if all(row.skipped for row in rows):
            why = next((row.skipped for row in rows if row.tensor.removesuffix(".weight") in self._owner), "")
            names = ", ".join(f.stem for f in list(adapter.factors.values())[:2])
            raise Unreadable(f"{target}: the base model has none of the adapted modules ({why or names})")
        used = {row.tensor.removesuffix(".weight") for row in rows if not row.skipped}
        alone = [
            replace(ref, skipped=ref.skipped or "the base model has no layer for it")
            for ref in adapter.layers()
            if ref.skipped or _match(self._stem(ref), stems) not in used
        ]
        self._layers = number([*rows, *alone])

    def layers(self) -> Iterator[LayerRef]:
        """Every tensor of the base model, then adapters that it has no place for."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """W + s·B·A."""
        stem = ref.tensor.removesuffix(".weight")
        factors = self._owner.get(stem)
        if factors is None:
            return pick(self.adapter.weights.fetch(self._saved[stem].tensor), ref)
        weight = self.base.read(replace(ref, part=None))
        return take(self.adapter.merged(factors, weight, ref.axes == "io"), ref.part)

    def _stem(self, ref: LayerRef) -> str:
        factors = self.adapter.factors.get(ref.tensor)
        return factors.stem if factors is not None else _saved_name(ref.tensor)

    def _row(self, ref: LayerRef) -> LayerRef:
        if ref.skipped:
            return ref
        stem = ref.tensor.removesuffix(".weight")
        factors = self._owner.get(stem)
        if factors is not None:
            shape = factors.shape if ref.axes != "io" else factors.shape[::-1]
            if ref.part is None and shape != ref.shape:
                return replace(ref, skipped=f"is {ref.shape} here, the adapter makes {shape}")
            how = f"plus {self.adapter.scales[factors.label]:.4g}·B·A of rank {factors.rank}"
            return replace(ref, dtype="float64", how=", ".join(filter(None, (ref.how, how))))
        if stem in self._saved and self._saved[stem].shape == ref.shape:
            return replace(ref, how="replaced by the adapter's own")
        return replace(ref, skipped="not adapted")


def _saved_name(tensor: str) -> str:
    """The base model's module of a tensor that was trained in full."""
    return tensor.removeprefix(lora_factors.PREFIX).removesuffix(".weight").replace(".modules_to_save", "")


def _match(stem: str, stems: set[str]) -> str:
    """The base model's name of a module: the same, or the only one of which the one name ends in the other."""
    if stem in stems:
        return stem
    near = [name for name in stems if name and (stem.endswith(f".{name}") or name.endswith(f".{stem}"))]
    return near[0] if len(near) == 1 else stem
