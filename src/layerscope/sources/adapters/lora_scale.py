"""The scale s of an adapter, from its configuration."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from layerscope.sources.layouts.parametrized_weights import ScaleOf

DIFFUSERS_METADATA = "lora_adapter_metadata"  # key in the header of a safetensors file


def scale_from_config(config: Mapping[str, Any]) -> ScaleOf:
    """Return a function that gives the scale of each module, according to adapter_config.json.

    The scale is lora_alpha / r, or lora_alpha / √r for rsLoRA, where r is the rank of the stored factors. An entry of
    alpha_pattern replaces lora_alpha.

    :raises ValueError: the scale is missing or invalid, or a pattern is a regular expression, which is never run.
    """
    use_rslora, alphas = config.get("use_rslora") or False, config.get("alpha_pattern") or {}
    if not isinstance(use_rslora, bool) or not isinstance(alphas, Mapping):
        raise ValueError("use_rslora must be true or false, and alpha_pattern an object")
    for key, value in {"lora_alpha": config.get("lora_alpha"), **alphas}.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number:
            raise ValueError(f"{key} is {value!r:.40}, but must be a finite number")
    alpha_by_module = {_module_name(key): float(value) for key, value in alphas.items()}
    place_by_module = {name: place for place, name in enumerate(alpha_by_module)}
    part_counts = {name.count(".") + 1 for name in alpha_by_module}

    def scale_of(stem: str, rank: int) -> float:
        endings = {ending for count in part_counts if (ending := _ending(stem, count)) in place_by_module}
        first = min(endings, key=place_by_module.__getitem__, default=None)  # as PEFT: the first entry that matches
        alpha = float(config["lora_alpha"]) if first is None else alpha_by_module[first]
        return alpha / (math.sqrt(rank) if use_rslora else rank)

    return scale_of


def scale_from_metadata(metadata: Mapping[str, Any]) -> ScaleOf:
    """Return a function that gives the scale of each module of a file that diffusers wrote.

    The settings of each component stand in the header, under names such as ``unet.lora_alpha``; files of older
    versions have none, and the scale is 1.

    :raises ValueError: the settings are no JSON object, or invalid.
    """
    text = metadata.get(DIFFUSERS_METADATA)
    settings = json.loads(text) if isinstance(text, str) else {}
    if not isinstance(settings, Mapping):
        raise ValueError(f"{DIFFUSERS_METADATA} is not a JSON object")
    configs: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        component, _, option = key.partition(".")
        configs.setdefault(component, {})[option] = value
    scales = {component: scale_from_config(config) for component, config in configs.items()}

    def scale_of(stem: str, rank: int) -> float:
        component = stem.partition(".")[0]
        return scales[component](stem, rank) if component in scales else 1.0

    return scale_of


def _ending(name: str, count: int) -> str:
    """Return the last parts of a dotted name."""
    return ".".join(name.rsplit(".", count)[-count:])


def _module_name(key: str) -> str:
    """Return the module name, or the end of one, that a pattern matches.

    :raises ValueError: the pattern is more than a name.
    """
    name = str(key).removeprefix("^").removeprefix(".*").removeprefix("\\.").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(
            f"alpha_pattern {str(key)[:60]!r} is a regular expression, which is not run; "
            "only names of modules are supported"
        )
    return name
