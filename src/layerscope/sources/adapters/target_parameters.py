"""LoRA on parameters that hold a stack of experts (``target_parameters`` of PEFT): one product per expert.

A has shape (E·r, in) with the expert slowest, B has shape (out, r·E) with the expert fastest, and
ΔW_e = lora_alpha/r · B.reshape(out, r, E)[:, :, e] · A.reshape(E, r, in)[e]. The factors of several parameters of one
module are nested: ``experts.base_layer.lora_A`` belongs to the first of them, ``experts.lora_A`` to the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layerscope.sources.adapters.lora_factors import Factors

if TYPE_CHECKING:
    from layerscope.array_types import Array

NESTING = ".base_layer"


def assign_parameters(all_factors: Sequence[Factors], config: Mapping[str, Any]) -> None:
    """Give the factors of stacked parameters the parameter's name and the number of its experts.

    :raises ValueError: the factors of a module are not as many as its parameters, or the rank does not divide them.
    """
    names = config.get("target_parameters") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError("target_parameters must be a list of names")
    if not names:
        return
    endings: dict[str, list[str]] = {}
    for name in names:
        owner, _, parameter = name.rpartition(".")
        endings.setdefault(owner, []).append(parameter)
    nested: dict[tuple[str, str], list[Factors]] = {}
    for factors in all_factors:
        nested.setdefault((_owner(factors.stem), factors.adapter), []).append(factors)
    for (owner, _), group in nested.items():
        words = owner.split(".")
        suffixes = (".".join(words[i:]) for i in range(len(words)))
        parameters = next((endings[suffix] for suffix in suffixes if suffix in endings), None)
        if parameters is None:
            continue
        if len(group) != len(parameters):
            raise ValueError(
                f"target_parameters names {len(parameters)} parameters of {owner[:80]}, "
                f"but the file has factors of {len(group)}"
            )
        group.sort(key=lambda factors: -len(factors.stem))
        for factors, parameter in zip(group, parameters, strict=True):
            _set_experts(factors, f"{owner}.{parameter}", config)


def expert_factors(factors: Factors, expert: int, a: Array, b: Array) -> tuple[Array, Array]:
    """Return A (r, in) and B (out, r) of one expert."""
    return a.reshape(factors.experts, factors.rank, -1)[expert], b.reshape(len(b), factors.rank, -1)[:, :, expert]


def _owner(stem: str) -> str:
    while stem.endswith(NESTING):
        stem = stem.removesuffix(NESTING)
    return stem


def _set_experts(factors: Factors, name: str, config: Mapping[str, Any]) -> None:
    patterns = config.get("rank_pattern") or {}
    ranks = [value for key, value in patterns.items() if name == key or name.endswith(f".{key}")]
    rank = ranks[0] if ranks else config.get("r")
    stored = factors.tensors["A"].shape[0] if "A" in factors.tensors else 0
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1 or stored % rank:
        raise ValueError(f"r is {rank!r:.40}, which does not divide the {stored} rows of the factor A of {name[:80]}")
    factors.stem, factors.experts = name, stored // rank
