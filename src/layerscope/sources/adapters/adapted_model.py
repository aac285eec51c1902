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
from layerscope.sources.layouts.torch_names import number_layers
from layerscope.sources.targets import Composed, make_spec, short_name

if TYPE_CHECKING:
    from layerscope.array_types import Array
    from layerscope.sources.readers.lora import AdapterSource


@dataclass(frozen=True)
class Merged(Composed):
    """An adapter added to its base model."""

    adapter: Any
    base: Any

    def __str__(self) -> str:
        return f"{short_name(self.base)} with {short_name(self.adapter)}"


class MergedSource:
    """The adapted layers of the base model with their adapters added; the others are listed as not adapted."""

    def __init__(self, target: Merged, adapter: AdapterSource, base: Source) -> None:
        self.spec = make_spec(target, "lora", portable=True, parts=(adapter.spec, base.spec))
        self.adapter, self.base = adapter, base
        refs = list(base.layers())
        stems = {ref.tensor.removesuffix(".weight") for ref in refs}
        self._factors_by_module: dict[str, Factors] = {}
        for factors in adapter.factors.values():
            module = _find_module(factors.stem, stems)
            if not factors.fault() and module in self._factors_by_module:
                labels = f"{self._factors_by_module[module].label} and {factors.label}"
                raise Unreadable(f"{target}: {labels} both adapt {module}; analyze one adapter at a time")
            if not factors.fault():
                self._factors_by_module[module] = factors
        self._replaced_layers = {
            _find_module(_saved_module(ref.tensor), stems): ref for ref in adapter.others if not ref.skipped
        }
        rows = [self._merged_row(ref) for ref in refs]
        if all(row.skipped for row in rows):
            reason = next(
                (row.skipped for row in rows if row.tensor.removesuffix(".weight") in self._factors_by_module), ""
            )
            names = ", ".join(f.stem for f in list(adapter.factors.values())[:2])
            raise Unreadable(
                f"{target}: the base model has none of the adapted modules ({reason or names}); "
                "pass the model that the adapter was trained on"
            )
        adapted = {row.tensor.removesuffix(".weight") for row in rows if not row.skipped}
        unplaced = [
            replace(ref, skipped=ref.skipped or "the base model has no layer for it")
            for ref in adapter.layers()
            if (ref.skipped and ref.tensor not in adapter.factors)
            or _find_module(self._base_module(ref), stems) not in adapted
        ]
        self._layers = number_layers([*rows, *unplaced])

    def layers(self) -> Iterator[LayerRef]:
        """Return every tensor of the base model, then adapters that match none of its layers."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """Return W + s·B·A."""
        stem = ref.tensor.removesuffix(".weight")
        factors = self._factors_by_module.get(stem)
        if factors is None:
            return pick(self.adapter.weights.fetch(self._replaced_layers[stem].tensor), ref)
        weight = self.base.read(replace(ref, part=None))
        return take(self.adapter.merged(factors, weight, ref.axes == "io", ref.expert), ref.part)

    def _base_module(self, ref: LayerRef) -> str:
        factors = self.adapter.factors.get(ref.tensor)
        return factors.stem if factors is not None else _saved_module(ref.tensor)

    def _merged_row(self, ref: LayerRef) -> LayerRef:
        if ref.skipped:
            return ref
        stem = ref.tensor.removesuffix(".weight")
        factors = self._factors_by_module.get(stem)
        if factors is not None:
            if factors.experts and ref.expert is None:
                return replace(ref, skipped="the adapter adapts a stack of experts, but the base model has none here")
            shape = factors.shape if ref.axes != "io" else factors.shape[::-1]
            fits = shape == ref.shape or (factors.experts > 0 and shape[::-1] == ref.shape)
            if ref.part is None and not fits:
                return replace(ref, skipped=f"its shape is {ref.shape}, but the adapter's is {shape}")
            how = f"plus {self.adapter.scales[factors.label]:.4g}·B·A of rank {factors.rank}"
            return replace(ref, dtype="float64", how=", ".join(filter(None, (ref.how, how))))
        if stem in self._replaced_layers and self._replaced_layers[stem].shape == ref.shape:
            return replace(ref, how="replaced by the adapter's weight")
        return replace(ref, skipped="not adapted")


def _saved_module(tensor: str) -> str:
    """Return the base model's module for a tensor that was trained in full."""
    return tensor.removeprefix(lora_factors.PREFIX).removesuffix(".weight").replace(".modules_to_save", "")


def _find_module(stem: str, stems: set[str]) -> str:
    """Return the base model's name of a module: the same name, or the only one where one name ends in the other."""
    if stem in stems:
        return stem
    candidates = [name for name in stems if name and (stem.endswith(f".{name}") or name.endswith(f".{stem}"))]
    return candidates[0] if len(candidates) == 1 else stem
