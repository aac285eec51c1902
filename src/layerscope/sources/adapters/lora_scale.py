"""The scale s of an adapter, from its configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from layerscope.sources.adapters.lora_factors import Factors


def scale_from_config(config: Mapping[str, Any]) -> Callable[[Factors], float]:
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

    def scale_of(factors: Factors) -> float:
        matches = [key for key in alpha_by_module if factors.stem == key or factors.stem.endswith(f".{key}")]
        alpha = alpha_by_module[matches[0]] if matches else float(config["lora_alpha"])
        rank = 1 if factors.fault() else factors.rank
        return alpha / (math.sqrt(rank) if use_rslora else rank)

    return scale_of


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
