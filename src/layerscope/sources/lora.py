"""A LoRA adapter as PEFT saves it: alone, or added to its base model in full."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Absent, Unreadable
from layerscope.numerics.matrices import pick, take
from layerscope.sources import Composed, _lora, inside, name_of, open_target, safetensors, short, spec, torch_file
from layerscope.sources._files import is_path, parsed
from layerscope.sources._layout import layers_of, number
from layerscope.sources._lora import Factors
from layerscope.sources._state_dict import StateDict
from layerscope.types import LayerRef, Source

if TYPE_CHECKING:
    from layerscope.types import Array

PORTABLE = True
CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Merged(Composed):
    """An adapter added to its base model."""

    adapter: Any
    base: Any

    def __str__(self) -> str:
        return f"{short(self.base)} with {short(self.adapter)}"


def is_adapter(target: Any) -> bool:
    """A folder with an adapter in it, or the adapter's own file."""
    if isinstance(target, str) and "://" not in target:
        target = Path(target).expanduser()
    if not is_path(target):
        return False
    if target.is_dir():
        return any((target / name).is_file() for name in (*FILES, CONFIG))
    return target.name in FILES and target.is_file()


def accepts(target: Any) -> bool:
    """An adapter's folder or file, or a Merged."""
    return isinstance(target, Merged) or is_adapter(target)


def open(target: Path | Merged) -> AdapterSource | MergedSource:
    """Read the headers and the adapter's configuration."""
    if isinstance(target, Merged):
        adapter = open_target(target.adapter)
        if not isinstance(adapter, AdapterSource):
            raise Unreadable(f"{name_of(target.adapter)}: not a LoRA adapter ({FILES[0]} beside {CONFIG})")
        return MergedSource(target, adapter, open_target(target.base))
    return AdapterSource(target)


class AdapterSource:
    """A row per adapted module, s·B·A; modules that were trained in full as what they are."""

    def __init__(self, target: Path) -> None:
        folder = target if target.is_dir() else target.parent
        self.weights = _weights(target, folder)
        self.spec = spec(target, "lora", portable=True)
        self.config = _config(folder)
        found, others = _lora.factors_of(self.weights.tensors)
        if not found:
            raise Unreadable(f"{target}: holds no factors lora_A and lora_B")
        try:
            scale = _lora.scaling(self.config)
            self.scales = {factors.label: scale(factors) for factors in found}
        except (ValueError, OverflowError) as error:
            raise Unreadable(f"{folder / CONFIG}: does not say the scale lora_alpha / r ({error})") from None
        self.factors = {factors.label: factors for factors in found}
        self.others = layers_of(others)
        rows = [_lora.row_of(factors, self.scales[factors.label]) for factors in found]
        self._layers = number([*rows, *self.others])

    def layers(self) -> Iterator[LayerRef]:
        """Adapted modules, then the other tensors."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """The core of an adapter, or a tensor."""
        factors = self.factors.get(ref.tensor)
        if factors is None:
            return self.weights.read(ref)
        a, b = (self.weights.fetch(factors.tensors[which].name) for which in "AB")
        scale = self.scales[factors.label]
        return _lora.core(a, b, scale) if ref.rank else _lora.product(factors, a, b, scale)

    def merged(self, factors: Factors, weight: Array, transposed: bool) -> Array:
        """W + s·B·A in float64, renormalised by DoRA's magnitudes where there are any."""
        a, b = (self.weights.fetch(factors.tensors[which].name) for which in "AB")
        update = _lora.product(factors, a, b, self.scales[factors.label])
        update = update.T if transposed else update
        if update.shape != weight.shape:
            raise Absent(f"the adapter makes {update.shape}, the weight is {weight.shape}")
        whole: Array = weight.astype(np.float64) + update
        if "magnitude" in factors.tensors:
            magnitude = self.weights.fetch(factors.tensors["magnitude"].name).astype(np.float64).ravel()
            axes = tuple(i for i in range(whole.ndim) if i != (1 if transposed else 0))
            norms = np.sqrt(np.square(whole).sum(axis=axes, keepdims=True))
            whole *= magnitude.reshape(norms.shape) / np.where(norms > 0, norms, 1)
        return whole


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
    return tensor.removeprefix(_lora.PREFIX).removesuffix(".weight").replace(".modules_to_save", "")


def _match(stem: str, stems: set[str]) -> str:
    """The base model's name of a module: the same, or the only one of which the one name ends in the other."""
    if stem in stems:
        return stem
    near = [name for name in stems if name and (stem.endswith(f".{name}") or name.endswith(f".{stem}"))]
    return near[0] if len(near) == 1 else stem


def _weights(target: Path, folder: Path) -> StateDict:
    names = [name for name in FILES if (folder / name).is_file()] if target.is_dir() else [target.name]
    if not names:
        raise Unreadable(f"{target}: {CONFIG} without {' or '.join(FILES)}")
    file = inside(folder, names[0])
    module: Any = safetensors if names[0].endswith(".safetensors") else torch_file
    opened: StateDict = module.open_files(target, [file], None)
    return opened


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise Unreadable(f"{folder}: an adapter without its {CONFIG}, which says its scale lora_alpha / r")
    try:
        config = parsed(inside(folder, CONFIG), 1 << 24)
    except (ValueError, RecursionError):
        raise Unreadable(f"{path}: is not JSON") from None
    if not isinstance(config, dict):
        raise Unreadable(f"{path}: is no table of settings")
    return config
