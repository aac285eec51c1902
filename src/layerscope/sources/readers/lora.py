"""A LoRA adapter as PEFT saves it: alone, or added to its base model in full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Absent, Unreadable
from layerscope.records.layers import LayerRef
from layerscope.sources.adapters import dora_magnitude, lora_factors
from layerscope.sources.adapters.adapted_model import Merged, MergedSource
from layerscope.sources.adapters.lora_factors import Factors
from layerscope.sources.adapters.lora_scale import scaling
from layerscope.sources.layouts.torch_names import layers_of, number
from layerscope.sources.opening import open_target
from layerscope.sources.readers import safetensors, torch_file
from layerscope.sources.readers.state_dict import StateDict
from layerscope.sources.storage.json_text import parsed
from layerscope.sources.storage.paths import inside, is_path
from layerscope.sources.targets import name_of, spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")


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
        found, others = lora_factors.factors_of(self.weights.tensors)
        if not found:
            raise Unreadable(f"{target}: holds no factors lora_A and lora_B")
        try:
            scale = scaling(self.config)
            self.scales = {factors.label: scale(factors) for factors in found}
        except (ValueError, OverflowError) as error:
            raise Unreadable(f"{folder / CONFIG}: does not say the scale lora_alpha / r ({error})") from None
        self.factors = {factors.label: factors for factors in found}
        self.others = layers_of(others)
        rows = [lora_factors.row_of(factors, self.scales[factors.label]) for factors in found]
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
        return lora_factors.core(a, b, scale) if ref.rank else lora_factors.product(factors, a, b, scale)

    def merged(self, factors: Factors, weight: Array, transposed: bool) -> Array:
        """W + s·B·A in float64, renormalised by DoRA's magnitudes where there are any."""
        a, b = (self.weights.fetch(factors.tensors[which].name) for which in "AB")
        update = lora_factors.product(factors, a, b, self.scales[factors.label])
        update = update.T if transposed else update
        if update.shape != weight.shape:
            raise Absent(f"the adapter makes {update.shape}, the weight is {weight.shape}")
        whole: Array = weight.astype(np.float64) + update
        if "magnitude" in factors.tensors:
            magnitude = self.weights.fetch(factors.tensors["magnitude"].name)
            whole = dora_magnitude.renormalize(whole, magnitude, out_axis=1 if transposed else 0)
        return whole


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
