"""The scale s of an adapter, as its configuration states it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from layerscope.sources.adapters.lora_factors import Factors

if TYPE_CHECKING:
    pass


def scaling(config: Mapping[str, Any]) -> Callable[[Factors], float]:
    """The scale of each module as an adapter_config.json says: lora_alpha / r, over √r for rsLoRA, patterns first.

    r is the rank that the factors have.

    :raises ValueError: it says none, or says it in a way that is not read: a regular expression of a stranger is not
        run.
    """
    root, alphas = config.get("use_rslora") or False, config.get("alpha_pattern") or {}
    if not isinstance(root, bool) or not isinstance(alphas, Mapping):
        raise ValueError("use_rslora or alpha_pattern is not what it should be")
    for key, value in {"lora_alpha": config.get("lora_alpha"), **alphas}.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number:
            raise ValueError(f"{key} is {value!r:.40}, no number")
    plain = {_plain(key): float(value) for key, value in alphas.items()}

    def of(factors: Factors) -> float:
        named = [key for key in plain if factors.stem == key or factors.stem.endswith(f".{key}")]
        own = plain[named[0]] if named else float(config["lora_alpha"])
        rank = 1 if factors.fault() else factors.rank
        return own / (math.sqrt(rank) if root else rank)

    return of


def _plain(key: str) -> str:
    """The module's name, or its end, that a pattern means.

    :raises ValueError: it is more than a name.
    """
    name = str(key).removeprefix("^").removeprefix(".*").removeprefix("\\.").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"alpha_pattern {str(key)[:60]!r} is a regular expression, which is not run")
    return name
