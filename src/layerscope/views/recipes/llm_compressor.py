"""A recipe of llm-compressor that gives every linear layer the format of a plan."""

from __future__ import annotations

import json
import re

from layerscope.errors import UsageError
from layerscope.records.quantization import QuantizationPlan
from layerscope.sources.quantization.weight_formats import INTEGER, PLAIN, format_named


def make(plan: QuantizationPlan) -> str:
    """Return YAML of a QuantizationModifier: a group of the config for each integer format, other layers ignored.

    :raises UsageError: a chosen format is not an integer format (int4, int8-g64, …) or a float format.
    """
    groups: dict[str, list[str]] = {}
    ignored = []
    for tensor in plan.tensors:
        module = tensor.name.removesuffix(".weight")
        if tensor.chosen in PLAIN:
            ignored.append(module)
        elif INTEGER.fullmatch(tensor.chosen):
            groups.setdefault(tensor.chosen, []).append(module)
        else:
            raise UsageError(
                f"--emit llm-compressor needs integer formats, not {tensor.chosen}; pass --formats int4,int8,bf16"
            )
    lines = ["quant_stage:", "  quant_modifiers:", "    QuantizationModifier:", f"      ignore: {_list(ignored)}"]
    lines.append("      config_groups:" if groups else "      config_groups: {}")
    for number, (name, modules) in enumerate(sorted(groups.items())):
        chosen = format_named(name)
        weights = {"num_bits": chosen.code_bits, "type": "int", "symmetric": True, "strategy": "group",
                   "group_size": chosen.group}  # fmt: skip
        lines += [f"        group_{number}:", f"          targets: {_list(modules)}",
                  f"          weights: {json.dumps(weights)}"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _list(modules: list[str]) -> str:
    return json.dumps([f"re:.*{re.escape(module)}$" for module in modules], ensure_ascii=False)
