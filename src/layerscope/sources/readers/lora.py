"""LoRA adapters saved by PEFT, alone or merged into their base model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Absent, Unreadable
from layerscope.numerics.matrices import low_rank_core
from layerscope.records.layers import LayerRef
from layerscope.sources.adapters import dora_magnitude, lora_factors
from layerscope.sources.adapters.adapted_model import Merged, MergedSource
from layerscope.sources.adapters.initialization import residual_of
from layerscope.sources.adapters.lora_factors import Factors
from layerscope.sources.adapters.lora_scale import scale_from_config
from layerscope.sources.adapters.target_parameters import assign_parameters, expert_factors
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
INPUT_KINDS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")
UNREAD_OPTIONS = ("use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "arrow_config", "layer_replication")
KIND_NAMES = {
    "LOHA": "LoHa", "LOKR": "LoKr", "ADALORA": "AdaLoRA", "VERA": "VeRA", "FOURIERFT": "FourierFT",
    "TRAINABLE_TOKENS": "trainable tokens", "LN_TUNING": "layer norm tuning", "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA", "kasa_config": "KaSA", "monteclora_config": "MonteCLoRA", "arrow_config": "Arrow",
    "layer_replication": "layer replication",
}  # fmt: skip
MLX_FILE = "adapters.safetensors"  # of mlx-lm, which calls its configuration as PEFT does
MERGE = "load it with PEFT, save model.merge_and_unload().save_pretrained(...)"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def is_adapter(target: Any) -> bool:
    """Whether the target is a folder with an adapter in it, or the adapter's own file."""
    if isinstance(target, str) and "://" not in target:
        target = Path(target).expanduser()
    if not is_path(target):
        return False
    if target.is_dir():
        return any((target / name).is_file() for name in (*ADAPTER_FILES, CONFIG_FILE))
    if target.name == MLX_FILE:
        return bool(target.is_file() and (target.parent / CONFIG_FILE).is_file())
    return target.name in ADAPTER_FILES and target.is_file()


def accepts(target: Any) -> bool:
    """Accept an adapter's folder or file, or a :class:`Merged`."""
    return isinstance(target, Merged) or is_adapter(target)


def open(target: Path | Merged) -> AdapterSource | MergedSource | StateDict:
    """Read the headers and the adapter's configuration."""
    if isinstance(target, Merged):
        adapter = open_target(target.adapter)
        if not isinstance(adapter, AdapterSource):
            raise Unreadable(
                f"{name_of(target.adapter)}: not a LoRA adapter; expected a folder with {ADAPTER_FILES[0]} "
                f"and {CONFIG_FILE}"
            )
        return MergedSource(target, adapter, open_target(target.base))
    folder = target if target.is_dir() else target.parent
    if (folder / MLX_FILE).is_file() and (target == folder or target.name == MLX_FILE):
        return _open_mlx(target, folder)
    return AdapterSource(target)


def _open_mlx(target: Path, folder: Path) -> StateDict:
    """Open an adapter of mlx-lm, whose configuration states the scale itself."""
    config = _read_config(folder)
    settings, kind = config.get("lora_parameters"), config.get("fine_tune_type", "lora")
    scale = settings.get("scale") if isinstance(settings, Mapping) else None
    if kind not in ("lora", "dora") or isinstance(scale, bool) or not isinstance(scale, int | float):
        raise Unreadable(
            f"{folder / CONFIG_FILE}: expected mlx-lm's lora_parameters with a scale, and the fine_tune_type lora or "
            "dora; fuse the adapter into its model with mlx_lm.fuse and pass that"
        )
    value = float(scale)
    source = safetensors.open_files(
        target, [path_inside(folder, MLX_FILE)], None, lora_scale=lambda *_: value
    )  # fmt: skip
    source.spec = make_spec(target, "lora", portable=True)
    return source


class AdapterSource:
    """An adapter: one row s·B·A per adapted module, and ordinary rows for modules that were trained in full."""

    def __init__(self, target: Path) -> None:
        folder = target if target.is_dir() else target.parent
        self.weights = _open_weights(target, folder)
        self.spec = make_spec(target, "lora", portable=True)
        self.config = _read_config(folder)
        check_kind(str(target), self.config)
        all_factors, other_tensors = lora_factors.group_factors(self.weights.tensors)
        if not all_factors:
            raise Unreadable(f"{target}: no factors lora_A and lora_B found; pass a LoRA adapter saved by PEFT")
        try:
            assign_parameters(all_factors, self.config)
            self.residual = residual_of(self.config)
        except ValueError as error:
            raise Unreadable(f"{folder / CONFIG_FILE}: {error}") from None
        try:
            scale = scale_from_config(self.config)
            self.scales = {f.label: scale(f.stem, 1 if f.fault() else f.rank) for f in all_factors}
        except (ValueError, OverflowError) as error:
            raise Unreadable(f"{folder / CONFIG_FILE}: cannot read the scale lora_alpha / r: {error}") from None
        self.factors = {factors.label: factors for factors in all_factors}
        self.others = [_without_token_deltas(ref) for ref in layers_of(other_tensors)]
        rows = [row for f in all_factors for row in lora_factors.adapter_rows(f, self.scales[f.label])]
        if self.residual is not None:
            name = str(self.config["init_lora_weights"])[:20]
            reason = f"{name} changed the base model, so that s·B·A is not the update; pass the base model too (--base)"
            rows = [row if row.skipped else replace(row, axes="", skipped=reason) for row in rows]
        self._layers = number_layers(in_model_order([*rows, *self.others]))

    def layers(self) -> Iterator[LayerRef]:
        """Adapted modules and other tensors, in the order of the model's layers."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """The low-rank core of an adapted module, or the values of another tensor."""
        factors = self.factors.get(ref.tensor)
        if factors is None:
            return self.weights.read(ref)
        a, b = self._fetch_factors(factors, ref.expert)
        scale = self.scales[factors.label]
        return low_rank_core(a, b, scale) if ref.rank else lora_factors.full_product(factors, a, b, scale)

    def _fetch_factors(self, factors: Factors, expert: int | None) -> tuple[Array, Array]:
        a, b = (np.asarray(self.weights.fetch(factors.tensors[which].name)) for which in "AB")
        return (a, b) if not factors.experts or expert is None else expert_factors(factors, expert, a, b)

    def merged(self, factors: Factors, weight: Array, transposed: bool, expert: int | None = None) -> Array:
        """W + s·B·A in float64, renormalized with DoRA's magnitudes if there are any.

        With an initialization that changed the base model, W is the changed weight.
        """
        a, b = self._fetch_factors(factors, expert)
        scale = self.scales[factors.label]
        update = lora_factors.full_product(factors, a, b, scale)
        if factors.experts:  # a parameter is adapted as it is stored, or else with its last two axes exchanged
            transposed = update.shape != weight.shape
        update = update.T if transposed else update
        if update.shape != weight.shape:
            raise Absent(f"the adapter's update has shape {update.shape}, but the weight has {weight.shape}")
        if self.residual is not None:
            if weight.ndim != 2 or factors.embedding:
                raise Absent("its initialization changed the base weight, which is computed again for matrices only")
            outputs_first = weight.T if transposed else weight
            changed = self.residual(outputs_first, factors.rank, scale)
            weight = changed.T if transposed else changed
        merged_weight: Array = weight.astype(np.float64) + update
        if "magnitude" in factors.tensors:
            magnitude = self.weights.fetch(factors.tensors["magnitude"].name)
            merged_weight = dora_magnitude.renormalize(merged_weight, magnitude, out_axis=1 if transposed else 0)
        return merged_weight


def check_kind(target: str, config: Mapping[str, Any]) -> None:
    """Check that the adapter is a LoRA whose product is s·B·A.

    :raises Unreadable: it is of another kind; the message names the kind and what to pass instead.
    """
    kind = str(config.get("peft_type") or "LORA").upper()
    if kind in INPUT_KINDS:
        raise Unreadable(
            f"{target}: a {kind.replace('_', ' ').lower()} adapter: it adds inputs and changes no weight; "
            "analyze the base model"
        )
    unread = kind if kind != "LORA" else next((option for option in UNREAD_OPTIONS if config.get(option)), "")
    if unread:
        name = KIND_NAMES.get(unread, unread)
        raise Unreadable(
            f"{target}: an adapter of the kind {name[:40]}, whose update is not formed here; {MERGE} and pass it"
        )


def _without_token_deltas(ref: LayerRef) -> LayerRef:
    """Skip trained rows of an embedding (``trainable_token_indices``), which replace rows and are no matrix."""
    if "trainable_tokens" not in ref.tensor or ref.skipped:
        return ref
    reason = f"trained tokens, which replace rows of the embedding; {MERGE} and pass it"
    return replace(ref, axes="", part=None, kind="factor", skipped=reason)


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
