"""Mixtures of experts: one row per expert under one name, whether a model keeps them as many tensors or as one.

``experts.gate_up_proj`` of shape (e, …) becomes ``experts.0.gate_proj.weight``, ``experts.0.up_proj.weight``, …, which
is what files with a tensor per expert call them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from layerscope.records.layers import LayerRef, Part

THREE_D = re.compile(r"\.ffn_\w{1,9}_exps\.|(^|\.)experts?\.|moe\.(in|out)put_linear\.")
TRANSPOSED = ("gpt_oss", "llama4", "llama4_text", "aria", "aria_text", "openai_privacy_filter")  # (e, in, out)
INTERLEAVED = ("gpt_oss",)  # gate and up alternate
FUSED = ("gate_up_proj", "ffn_gate_up_exps")
GRANITE = {"input_linear": "experts.gate_up_proj", "output_linear": "experts.down_proj"}
MIXTRAL = re.compile(r"(?P<stem>.*)\.block_sparse_moe\.experts\.(?P<expert>\d+)\.w(?P<which>[123])\.weight$", re.DOTALL)
ROLES = {"1": "gate_proj", "2": "down_proj", "3": "up_proj"}
MOST = 4096  # experts of a layer
LONGEST = 300  # letters of a name that is matched

Shapes = Mapping[str, tuple[int, ...]]


def is_experts(name: str, shape: tuple[int, ...]) -> bool:
    """Does a tensor hold experts, by its name and its three axes?"""
    return len(shape) == 3 and shape[0] <= MOST and len(name) <= LONGEST and THREE_D.search(name) is not None


def experts(ref: LayerRef, shapes: Shapes, config: Mapping[str, Any]) -> list[LayerRef]:
    """A row per expert of a tensor (e, out, in) or (e, in, out), gate and up apart where one tensor holds both."""
    stem, last = ref.name.removesuffix(".weight").rpartition(".")[::2]
    if last in GRANITE:  # Granite's files; its live model has them under the names of the others
        ref = replace(ref, name=f"{stem}.{GRANITE[last]}.weight")
    transposed = ref.axes == "eio" if ref.axes else _transposed(ref, shapes, config)
    axes, matrix = ("io" if transposed else "oi"), ref.shape[1:]
    how = ", ".join(filter(None, (ref.how, "one of a tensor of experts", "stored (in, out)" if transposed else "")))
    found = []
    for i in range(ref.shape[0]):
        for label, part in _parts(ref, matrix, 1 if transposed else 0, shapes, config):
            size = list(matrix)
            if part is not None:
                size[part.axis] = part.count(size[part.axis])
            name = _name(ref.name, i, label)
            found.append(replace(ref, name=name, shape=tuple(size), axes=axes, part=part, expert=i, how=how))
    return found


def renamed(ref: LayerRef) -> LayerRef:
    """An expert of Mixtral's files under the name that the live model's tensors give it."""
    match = MIXTRAL.match(ref.name) if len(ref.name) <= LONGEST else None
    if match is None:
        return ref
    return replace(ref, name=f"{match['stem']}.mlp.experts.{match['expert']}.{ROLES[match['which']]}.weight")


def _name(name: str, expert: int, label: str) -> str:
    """``a.experts.b`` → ``a.experts.3.b.weight``; ``label`` replaces the last word."""
    stem = name.removesuffix(".weight")
    for fused in FUSED if label else ():
        if stem.endswith(fused):
            stem = stem.removesuffix(fused) + fused.replace("gate_up", label)
    before, middle, after = stem.rpartition("experts.")
    return f"{before}experts.{expert}.{after}.weight" if middle else f"{stem}.{expert}.weight"


def _parts(
    ref: LayerRef, matrix: tuple[int, ...], axis: int, shapes: Shapes, config: Mapping[str, Any]
) -> list[tuple[str, Part | None]]:
    size = matrix[axis]
    if not ref.name.removesuffix(".weight").endswith(FUSED) or size % 2:
        return [("", None)]
    model = str(config.get("model_type", ""))
    if model in INTERLEAVED or (not model and f"{ref.name}_bias" in shapes):
        return [("gate", Part(axis, 0, 1, 2)), ("up", Part(axis, 1, 1, 2))]
    half = size // 2
    return [("gate", Part(axis, 0, half, size)), ("up", Part(axis, half, half, size))]


def _transposed(ref: LayerRef, shapes: Shapes, config: Mapping[str, Any]) -> bool:
    """Is each expert (in, out)? The pair tells: gate_up (e, 2f, h) and down (e, h, f), or each of them across.

    Where there is no pair, or it fits both ways, the model's type does.
    """
    stem, ending = ref.name.removesuffix(".weight"), ".weight" * ref.name.endswith(".weight")
    for mine, other in (("gate_up_proj", "down_proj"), ("down_proj", "gate_up_proj")):
        partner = shapes.get(stem.removesuffix(mine) + other + ending) if stem.endswith(mine) else None
        if partner is not None and len(partner) == 3:
            up, down = (ref.shape, partner) if mine == "gate_up_proj" else (partner, ref.shape)
            plain = up[1] == 2 * down[2] and up[2] == down[1]
            across = up[2] == 2 * down[1] and up[1] == down[2]
            if plain != across:
                return across
    return str(config.get("model_type", "")) in TRANSPOSED
