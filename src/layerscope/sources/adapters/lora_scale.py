"""The scale s of an adapter, as its configuration states it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from layerscope.sources.adapters.lora_factors import Factors


def scale_from_config(config: Mapping[str, Any]) -> Callable[[Factors], float]:
    """The scale of each module as an adapter_config.json says: lora_alpha / r, over √r for rsLoRA, patterns first.

    r is the rank that the factors have.

    :raises ValueError: it says none, or says it in a way that is not read: regular expressions from files are not run.
    """
    use_rslora, alphas = config.get("use_rslora") or False, config.get("alpha_pattern") or {}
    if not isinstance(use_rslora, bool) or not isinstance(alphas, Mapping):
        raise ValueError("use_rslora or alpha_pattern is not what it should be")
    for key, value in {"lora_alpha": config.get("lora_alpha"), **alphas}.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number:
            raise ValueError(f"{key} is {value!r:.40}, no number")
    alpha_by_module = {_module_name(key): float(value) for key, value in alphas.items()}

    def scale_of(factors: Factors) -> float:
        matches = [key for key in alpha_by_module if factors.stem == key or factors.stem.endswith(f".{key}")]
        alpha = alpha_by_module[matches[0]] if matches else float(config["lora_alpha"])
        rank = 1 if factors.fault() else factors.rank
        return alpha / (math.sqrt(rank) if use_rslora else rank)

    return scale_of


def _module_name(key: str) -> str:
    """The module's name, or its end, that a pattern means.

    :raises ValueError: it is more than a name.
    """
    name = str(key).removeprefix("^").removeprefix(".*").removeprefix("\\.").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"alpha_pattern {str(key)[:60]!r} is a regular expression, which is not run")
    return name
