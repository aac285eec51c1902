"""Layouts of fused projections in Hugging Face models, one table entry per ``model_type``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from layerscope.records.layers import LayerRef, Part
from layerscope.sources.layouts import transposed_projections

Config = Mapping[str, Any]
NamedParts = tuple[tuple[str, Part], ...]
Layout = Callable[[tuple[int, ...], Config], "FusedProjection"]


@dataclass(frozen=True)
class FusedProjection:
    """The axes of a tensor and the named parts in it."""

    axes: str
    parts: NamedParts = ()


def fused_parts(name: str, shape: tuple[int, ...], config: Config) -> FusedProjection | None:
    """Return the layout that ``model_type`` defines for a two-dimensional tensor, or None if it defines none."""
    text_config = config.get("text_config")
    inner_type = text_config.get("model_type") if isinstance(text_config, Mapping) else None
    model_types = [str(config.get("model_type")), str(inner_type)]
    family = next((FAMILIES[model_type] for model_type in model_types if model_type in FAMILIES), None)
    if family is None or len(shape) != 2 or not name.endswith(".weight"):
        return None
    layer = name.removesuffix(".weight")
    for suffix, layout in family.items():
        if layer.endswith(suffix):
            try:
                fused = layout(shape, config)
            except (KeyError, TypeError, ValueError, ArithmeticError):  # the config lacks the sizes
                return None
            fits = all(
                p.length > 0 and p.offset + p.length <= p.stride and shape[p.axis] % p.stride == 0
                for _, p in fused.parts
            )
            return fused if fits else FusedProjection(fused.axes)
    return None


def swap_axes(fused: FusedProjection | None) -> FusedProjection | None:
    """Return the layout of a matrix stored (in, out) although its family stores (out, in)."""
    if fused is None or fused.axes != "oi":
        return None
    return FusedProjection("io", tuple((label, replace(part, axis=1 - part.axis)) for label, part in fused.parts))


QUERY = re.compile(r"(.*[._])?(q|q_proj|query|q_lin|wq|to_q)$")
KEY_VALUE = re.compile(r"(.*[._])?(k|v|k_proj|v_proj|key|value|k_lin|v_lin|wk|wv|to_k|to_v)$")
OUTPUT = re.compile(
    r".*(attn|attention|self)[._](o_proj|out_proj|out_lin|c_proj|wo|dense|o|output\.dense|output|out)$|(.*[._])?o_proj$"
)
MAX_NAME_CHARS = 200  # longer names are not matched


def with_heads(ref: LayerRef, config: Config) -> LayerRef:
    """Return the ref with its number of attention heads, taken from the config."""
    if ref.skipped or set(ref.axes) != {"o", "i"} or not config or len(ref.name) > MAX_NAME_CHARS:
        return ref
    name = ref.name.replace(".weight", "").replace("[", ".").removesuffix("]")
    try:
        heads, kv, size = _head_sizes(config)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return ref
    sizes = dict(zip(ref.axes, ref.shape, strict=True))
    if QUERY.match(name) and sizes["o"] == heads * size:
        return replace(ref, heads=heads)
    if KEY_VALUE.match(name) and sizes["o"] == kv * size:
        return replace(ref, heads=kv)
    if OUTPUT.match(name) and sizes["i"] == heads * size:
        return replace(ref, heads=heads, heads_on="i")
    return ref


def _consecutive_parts(axis: int, **lengths: int) -> NamedParts:
    """Return named parts that follow each other within a repeating group of their total length."""
    stride, offset, parts = sum(lengths.values()), 0, []
    for label, length in lengths.items():
        parts.append((label, Part(axis, offset, length, stride)))
        offset += length
    return tuple(parts)


def _head_sizes(config: Config) -> tuple[int, int, int]:
    """Return (query heads, key-value heads, head size)."""
    heads = int(config.get("num_attention_heads") or config.get("n_head") or config["n_heads"])
    hidden = int(config.get("hidden_size") or config.get("n_embd") or config["d_model"])
    kv = int(config.get("num_key_value_heads") or heads)
    return heads, kv, int(config.get("head_dim") or hidden // heads)


def _transposed(shape: tuple[int, ...], config: Config) -> FusedProjection:
    return FusedProjection(transposed_projections.AXES)


def _thirds_transposed(shape: tuple[int, ...], config: Config) -> FusedProjection:
    third = shape[1] // 3
    parts = _consecutive_parts(1, q=third, k=third, v=third) if shape[1] == 3 * third else ()
    return FusedProjection(transposed_projections.AXES, parts)


def _halves_transposed(shape: tuple[int, ...], config: Config) -> FusedProjection:
    return FusedProjection(transposed_projections.AXES, _consecutive_parts(1, k=shape[1] // 2, v=shape[1] // 2))


def _thirds(shape: tuple[int, ...], config: Config) -> FusedProjection:
    third = shape[0] // 3
    return FusedProjection("oi", _consecutive_parts(0, q=third, k=third, v=third))


def _grouped(shape: tuple[int, ...], config: Config) -> FusedProjection:
    """Queries of all heads, then keys and values of all key-value heads."""
    heads, kv, size = _head_sizes(config)
    parts = _consecutive_parts(0, q=heads * size, k=kv * size, v=kv * size)
    return FusedProjection("oi", parts if parts[0][1].stride == shape[0] else ())


def _interleaved(shape: tuple[int, ...], config: Config) -> FusedProjection:
    """Query, key and value of each head side by side."""
    _, _, size = _head_sizes(config)
    return FusedProjection("oi", _consecutive_parts(0, q=size, k=size, v=size))


def _falcon(shape: tuple[int, ...], config: Config) -> FusedProjection:
    heads, _, size = _head_sizes(config)
    if config.get("new_decoder_architecture"):
        kv = int(config["num_kv_heads"])
        return FusedProjection("oi", _consecutive_parts(0, q=heads // kv * size, k=size, v=size))
    if config.get("multi_query", True):
        return FusedProjection("oi", _consecutive_parts(0, q=heads * size, k=size, v=size))
    return _interleaved(shape, config)


def _bigcode(shape: tuple[int, ...], config: Config) -> FusedProjection:
    heads, _, size = _head_sizes(config)
    if config.get("multi_query", True):
        return FusedProjection("oi", _consecutive_parts(0, q=heads * size, k=size, v=size))
    return _interleaved(shape, config)


def _gate_up(shape: tuple[int, ...], config: Config) -> FusedProjection:
    return FusedProjection("oi", _consecutive_parts(0, gate=shape[0] // 2, up=shape[0] // 2))


_CONV1D: dict[str, Layout] = {
    "crossattention.c_attn": _halves_transposed,
    "attn.c_attn": _thirds_transposed,
    "c_attn": _transposed,
    "q_attn": _transposed,
    "c_proj": _transposed,
    "c_fc": _transposed,
}
_PHI3: dict[str, Layout] = {"qkv_proj": _grouped, "gate_up_proj": _gate_up}

FAMILIES: dict[str, dict[str, Layout]] = {
    **dict.fromkeys(transposed_projections.MODEL_TYPES, _CONV1D),
    "gpt_bigcode": {"attn.c_attn": _bigcode},
    "gpt_neox": {"attention.query_key_value": _interleaved},
    "bloom": {"self_attention.query_key_value": _interleaved},
    "falcon": {"self_attention.query_key_value": _falcon},
    "phi3": _PHI3,
    "glm": {"gate_up_proj": _gate_up},
    "glm4": {"gate_up_proj": _gate_up},
    "glm4v": {"gate_up_proj": _gate_up},
    "phi4_multimodal": _PHI3,
    "mpt": {"Wqkv": _thirds},
    "modernbert": {"Wqkv": _thirds},
    "gguf": {"attn_qkv": _grouped},
}
