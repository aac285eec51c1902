"""Mixtures of experts: one row per expert with the same name, whether a model stores them in one tensor or in many.

``experts.gate_up_proj`` of shape (e, …) becomes ``experts.0.gate_proj.weight``, ``experts.0.up_proj.weight``, …, the
names used in files with one tensor per expert.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from layerscope.records.layers import LayerRef, Part

EXPERT_NAME = re.compile(r"\.ffn_\w{1,9}_exps\.|(^|\.)experts?\.|moe\.(in|out)put_linear\.")
TRANSPOSED_MODEL_TYPES = (
    "gpt_oss",
    "llama4",
    "llama4_text",
    "aria",
    "aria_text",
    "openai_privacy_filter",
)  # stored (e, in, out)
INTERLEAVED_MODEL_TYPES = ("gpt_oss",)  # gate and up rows alternate
FUSED_PROJECTIONS = ("gate_up_proj", "ffn_gate_up_exps")
GRANITE_NAMES = {"input_linear": "experts.gate_up_proj", "output_linear": "experts.down_proj"}
MIXTRAL_EXPERT = re.compile(
    r"(?P<stem>.*)\.block_sparse_moe\.experts\.(?P<expert>\d+)\.w(?P<which>[123])\.weight$", re.DOTALL
)
MIXTRAL_ROLES = {"1": "gate_proj", "2": "down_proj", "3": "up_proj"}
MAX_EXPERTS = 4096  # per layer
MAX_NAME_CHARS = 300  # longer names are not matched

Shapes = Mapping[str, tuple[int, ...]]


def is_experts(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor holds experts, judging by its name and its three axes."""
    return (
        len(shape) == 3
        and shape[0] <= MAX_EXPERTS
        and len(name) <= MAX_NAME_CHARS
        and EXPERT_NAME.search(name) is not None
    )


def expert_rows(ref: LayerRef, shapes: Shapes, config: Mapping[str, Any]) -> list[LayerRef]:
    """Return one row per expert of a tensor (e, out, in) or (e, in, out), with fused gate and up projections split."""
    stem, last = ref.name.removesuffix(".weight").rpartition(".")[::2]
    if last in GRANITE_NAMES:  # only Granite's files use these names, not its live model
        ref = replace(ref, name=f"{stem}.{GRANITE_NAMES[last]}.weight")
    transposed = ref.axes == "eio" if ref.axes else _is_transposed(ref, shapes, config)
    axes, matrix = ("io" if transposed else "oi"), ref.shape[1:]
    how = ", ".join(filter(None, (ref.how, "one expert of a stacked tensor", "stored (in, out)" if transposed else "")))
    rows = []
    for expert in range(ref.shape[0]):
        for label, part in _gate_and_up_parts(ref, matrix, 1 if transposed else 0, shapes, config):
            size = list(matrix)
            if part is not None:
                size[part.axis] = part.count(size[part.axis])
            name = _expert_name(ref.name, expert, label)
            rows.append(replace(ref, name=name, shape=tuple(size), axes=axes, part=part, expert=expert, how=how))
    return rows


def rename_mixtral_expert(ref: LayerRef) -> LayerRef:
    """Rename an expert of Mixtral's files to match the live model."""
    match = MIXTRAL_EXPERT.match(ref.name) if len(ref.name) <= MAX_NAME_CHARS else None
    if match is None:
        return ref
    return replace(ref, name=f"{match['stem']}.mlp.experts.{match['expert']}.{MIXTRAL_ROLES[match['which']]}.weight")


def _expert_name(name: str, expert: int, label: str) -> str:
    """Return ``a.experts.3.b.weight`` for ``a.experts.b``; ``label`` replaces ``gate_up`` in the last word."""
    stem = name.removesuffix(".weight")
    for fused in FUSED_PROJECTIONS if label else ():
        if stem.endswith(fused):
            stem = stem.removesuffix(fused) + fused.replace("gate_up", label)
    before, middle, after = stem.rpartition("experts.")
    return f"{before}experts.{expert}.{after}.weight" if middle else f"{stem}.{expert}.weight"


def _gate_and_up_parts(
    ref: LayerRef, matrix: tuple[int, ...], axis: int, shapes: Shapes, config: Mapping[str, Any]
) -> list[tuple[str, Part | None]]:
    size = matrix[axis]
    if not ref.name.removesuffix(".weight").endswith(FUSED_PROJECTIONS) or size % 2:
        return [("", None)]
    model = str(config.get("model_type", ""))
    if model in INTERLEAVED_MODEL_TYPES or (not model and f"{ref.name}_bias" in shapes):
        return [("gate", Part(axis, 0, 1, 2)), ("up", Part(axis, 1, 1, 2))]
    half = size // 2
    return [("gate", Part(axis, 0, half, size)), ("up", Part(axis, half, half, size))]


def _is_transposed(ref: LayerRef, shapes: Shapes, config: Mapping[str, Any]) -> bool:
    """Return whether each expert is stored (in, out).

    The shapes of a pair decide: gate_up (e, 2f, h) with down (e, h, f) is (out, in), both transposed is (in, out).
    Without a pair, or if both fit, the model type decides.
    """
    stem, ending = ref.name.removesuffix(".weight"), ".weight" * ref.name.endswith(".weight")
    for suffix, partner_suffix in (("gate_up_proj", "down_proj"), ("down_proj", "gate_up_proj")):
        partner = shapes.get(stem.removesuffix(suffix) + partner_suffix + ending) if stem.endswith(suffix) else None
        if partner is not None and len(partner) == 3:
            up, down = (ref.shape, partner) if suffix == "gate_up_proj" else (partner, ref.shape)
            is_out_in = up[1] == 2 * down[2] and up[2] == down[1]
            is_in_out = up[2] == 2 * down[1] and up[1] == down[2]
            if is_out_in != is_in_out:
                return is_in_out
    return str(config.get("model_type", "")) in TRANSPOSED_MODEL_TYPES
