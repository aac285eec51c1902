"""LoRA adapters saved by PEFT, alone or merged into their base model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Absent, Unreadable
from layerscope.numerics.matrices import low_rank_core
from layerscope.records.layers import LayerRef
from layerscope.sources.adapters import dora_magnitude, lora_factors
from layerscope.sources.adapters.adapted_model import Merged, MergedSource
from layerscope.sources.adapters.lora_factors import Factors
from layerscope.sources.adapters.lora_scale import scale_from_config
from layerscope.sources.layouts.layer_order import in_model_order
from layerscope.sources.layouts.torch_names import layers_of, number_layers
from layerscope.sources.opening import open_target
from layerscope.sources.readers import safetensors, torch_file
from layerscope.sources.readers.state_dict import StateDict
from layerscope.sources.storage.json_text import read_json
from layerscope.sources.storage.paths import is_path, path_inside
from layerscope.sources.targets import make_spec, name_of

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
CONFIG_FILE = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def is_adapter(target: Any) -> bool:
    """Whether the target is a folder with an adapter in it, or the adapter's own file."""
    if isinstance(target, str) and "://" not in target:
        target = Path(target).expanduser()
    if not is_path(target):
        return False
    if target.is_dir():
        return any((target / name).is_file() for name in (*ADAPTER_FILES, CONFIG_FILE))
    return target.name in ADAPTER_FILES and target.is_file()


def accepts(target: Any) -> bool:
    """Accept an adapter's folder or file, or a :class:`Merged`."""
    return isinstance(target, Merged) or is_adapter(target)


def open(target: Path | Merged) -> AdapterSource | MergedSource:
    """Read the headers and the adapter's configuration."""
    if isinstance(target, Merged):
        adapter = open_target(target.adapter)
        if not isinstance(adapter, AdapterSource):
            raise Unreadable(
                f"{name_of(target.adapter)}: not a LoRA adapter; expected a folder with {ADAPTER_FILES[0]} "
                f"and {CONFIG_FILE}"
            )
        return MergedSource(target, adapter, open_target(target.base))
    return AdapterSource(target)


class AdapterSource:
    """An adapter: one row s·B·A per adapted module, and ordinary rows for modules that were trained in full."""

    def __init__(self, target: Path) -> None:
        folder = target if target.is_dir() else target.parent
        self.weights = _open_weights(target, folder)
        self.spec = make_spec(target, "lora", portable=True)
        self.config = _read_config(folder)
        all_factors, other_tensors = lora_factors.group_factors(self.weights.tensors)
        if not all_factors:
            raise Unreadable(f"{target}: no factors lora_A and lora_B found; pass a LoRA adapter saved by PEFT")
        try:
            scale = scale_from_config(self.config)
            self.scales = {factors.label: scale(factors) for factors in all_factors}
        except (ValueError, OverflowError) as error:
            raise Unreadable(f"{folder / CONFIG_FILE}: cannot read the scale lora_alpha / r: {error}") from None
        self.factors = {factors.label: factors for factors in all_factors}
        self.others = layers_of(other_tensors)
        rows = [lora_factors.adapter_row(factors, self.scales[factors.label]) for factors in all_factors]
        self._layers = number_layers(in_model_order([*rows, *self.others]))

    def layers(self) -> Iterator[LayerRef]:
        """Adapted modules and other tensors, in the order of the model's layers."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """The low-rank core of an adapted module, or the values of another tensor."""
        factors = self.factors.get(ref.tensor)
        if factors is None:
            return self.weights.read(ref)
        a, b = (self.weights.fetch(factors.tensors[which].name) for which in "AB")
        scale = self.scales[factors.label]
        return low_rank_core(a, b, scale) if ref.rank else lora_factors.full_product(factors, a, b, scale)

    def merged(self, factors: Factors, weight: Array, transposed: bool) -> Array:
        """W + s·B·A in float64, renormalized with DoRA's magnitudes if there are any."""
        a, b = (self.weights.fetch(factors.tensors[which].name) for which in "AB")
        update = lora_factors.full_product(factors, a, b, self.scales[factors.label])
        update = update.T if transposed else update
        if update.shape != weight.shape:
            raise Absent(f"the adapter's update has shape {update.shape}, but the weight has {weight.shape}")
        merged_weight: Array = weight.astype(np.float64) + update
        if "magnitude" in factors.tensors:
            magnitude = self.weights.fetch(factors.tensors["magnitude"].name)
            merged_weight = dora_magnitude.renormalize(merged_weight, magnitude, out_axis=1 if transposed else 0)
        return merged_weight


def _open_weights(target: Path, folder: Path) -> StateDict:
    names = [name for name in ADAPTER_FILES if (folder / name).is_file()] if target.is_dir() else [target.name]
    if not names:
        raise Unreadable(
            f"{target}: found {CONFIG_FILE}, but neither {' nor '.join(ADAPTER_FILES)}; copy the weights beside it"
        )
    file = path_inside(folder, names[0])
    module: Any = safetensors if names[0].endswith(".safetensors") else torch_file
    weights: StateDict = module.open_files(target, [file], None)
    return weights


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise Unreadable(
            f"{folder}: the adapter has no {CONFIG_FILE}, which states its scale lora_alpha / r; "
            "copy the file beside the weights"
        )
    try:
        config = read_json(path_inside(folder, CONFIG_FILE), 1 << 24)
    except (ValueError, RecursionError):
        raise Unreadable(f"{path}: the file is not JSON; save the adapter again") from None
    if not isinstance(config, dict):
        raise Unreadable(f"{path}: the file is not a JSON object of settings; save the adapter again")
    return config
