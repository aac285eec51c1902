"""Mixtures of experts: one row per expert under one name, whether a model keeps them as many tensors or as one.

``experts.gate_up_proj`` of shape (e, …) becomes ``experts.0.gate_proj.weight``, ``experts.0.up_proj.weight``, …, which
is what files with a tensor per expert call them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from layerscope.types import LayerRef, Part

THREE_D = re.compile(r"\.ffn_\w{1,9}_exps\.|expert|moe\.(in|out)put_linear")
TRANSPOSED = ("gpt_oss", "llama4", "llama4_text")  # (e, in, out)
INTERLEAVED = ("gpt_oss",)  # gate and up alternate
FUSED = "gate_up_proj"
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
    stem = stem.removesuffix(FUSED) + label if label else stem
    before, middle, after = stem.rpartition("experts.")
    return f"{before}experts.{expert}.{after}.weight" if middle else f"{stem}.{expert}.weight"


def _parts(
    ref: LayerRef, matrix: tuple[int, ...], axis: int, shapes: Shapes, config: Mapping[str, Any]
) -> list[tuple[str, Part | None]]:
    size = matrix[axis]
    if not ref.name.removesuffix(".weight").endswith(FUSED) or size % 2:
        return [("", None)]
    if config.get("model_type") in INTERLEAVED or f"{ref.name}_bias" in shapes:
        return [("gate_proj", Part(axis, 0, 1, 2)), ("up_proj", Part(axis, 1, 1, 2))]
    half = size // 2
    return [("gate_proj", Part(axis, 0, half, size)), ("up_proj", Part(axis, half, half, size))]


def _transposed(ref: LayerRef, shapes: Shapes, config: Mapping[str, Any]) -> bool:
    """Is each expert (in, out)? The config says; without one, the pair gate_up (e, h, 2f), down (e, f, h) does."""
    model = str(config.get("model_type", ""))
    if model:
        return model in TRANSPOSED
    stem, whole = ref.name.removesuffix(".weight"), ref.name.endswith(".weight")
    for mine, other in ((FUSED, "down_proj"), ("down_proj", FUSED)):
        if stem.endswith(mine):
            partner = shapes.get(stem.removesuffix(mine) + other + ".weight" * whole)
            up, down = (ref.shape, partner) if mine == FUSED else (partner, ref.shape)
            return bool(up and down and len(up) == len(down) == 3 and up[2] == 2 * down[1] and up[1] == down[2])
    return False
