"""How Hugging Face models store projections together, by ``model_type``: a table of facts, one line per family."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from layerscope.records.layers import LayerRef, Part

Config = Mapping[str, Any]
Named = tuple[tuple[str, Part], ...]
Layout = Callable[[tuple[int, ...], Config], "Fused"]


@dataclass(frozen=True)
class Fused:
    """Axes of a tensor and the parts in it."""

    axes: str
    parts: Named = ()


def fused_parts(name: str, shape: tuple[int, ...], config: Config) -> Fused | None:
    """What ``model_type`` says about a two-dimensional tensor of this name, or None where it says nothing."""
    inner = config.get("text_config")
    types = (config.get("model_type"), inner.get("model_type") if isinstance(inner, Mapping) else None)
    family = next((FAMILIES[str(name)] for name in types if str(name) in FAMILIES), None)
    if family is None or len(shape) != 2 or not name.endswith(".weight"):
        return None
    layer = name.removesuffix(".weight")
    for suffix, layout in family.items():
        if layer.endswith(suffix):
            try:
                fused = layout(shape, config)
            except (KeyError, TypeError, ValueError, ArithmeticError):  # a config without the numbers: leave it whole
                return None
            whole = all(
                p.length > 0 and p.offset + p.length <= p.stride and shape[p.axis] % p.stride == 0
                for _, p in fused.parts
            )
            return fused if whole else Fused(fused.axes)
    return None


def turned(fused: Fused | None) -> Fused | None:
    """The same of a matrix that is stored (in, out) where its family stores (out, in)."""
    if fused is None or fused.axes != "oi":
        return None
    return Fused("io", tuple((label, replace(part, axis=1 - part.axis)) for label, part in fused.parts))


QUERY = re.compile(r"(.*[._])?(q|q_proj|query|q_lin|wq|to_q)$")
KEY_VALUE = re.compile(r"(.*[._])?(k|v|k_proj|v_proj|key|value|k_lin|v_lin|wk|wv|to_k|to_v)$")
OUTPUT = re.compile(
    r".*(attn|attention|self)[._](o_proj|out_proj|out_lin|c_proj|wo|dense|o|output\.dense|output|out)$|(.*[._])?o_proj$"
)
LONGEST = 200  # letters of a name that is matched


def with_heads(ref: LayerRef, config: Config) -> LayerRef:
    """The same ref, with the heads of an attention projection as the config counts them."""
    if ref.skipped or set(ref.axes) != {"o", "i"} or not config or len(ref.name) > LONGEST:
        return ref
    name = ref.name.replace(".weight", "").replace("[", ".").removesuffix("]")
    try:
        heads, kv, size = _heads(config)
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


def _pieces(axis: int, **lengths: int) -> Named:
    """Named pieces that follow each other within a repeating group of their total length."""
    stride, offset, parts = sum(lengths.values()), 0, []
    for label, length in lengths.items():
        parts.append((label, Part(axis, offset, length, stride)))
        offset += length
    return tuple(parts)


def _heads(config: Config) -> tuple[int, int, int]:
    """(query heads, key-value heads, head size)."""
    heads = int(config.get("num_attention_heads") or config.get("n_head") or config["n_heads"])
    hidden = int(config.get("hidden_size") or config.get("n_embd") or config["d_model"])
    kv = int(config.get("num_key_value_heads") or heads)
    return heads, kv, int(config.get("head_dim") or hidden // heads)


def _transposed(shape: tuple[int, ...], config: Config) -> Fused:
    return Fused("io")


def _thirds_transposed(shape: tuple[int, ...], config: Config) -> Fused:
    third = shape[1] // 3
    return Fused("io", _pieces(1, q=third, k=third, v=third) if shape[1] == 3 * third else ())


def _halves_transposed(shape: tuple[int, ...], config: Config) -> Fused:
    return Fused("io", _pieces(1, k=shape[1] // 2, v=shape[1] // 2))


def _thirds(shape: tuple[int, ...], config: Config) -> Fused:
    third = shape[0] // 3
    return Fused("oi", _pieces(0, q=third, k=third, v=third))


def _grouped(shape: tuple[int, ...], config: Config) -> Fused:
    """q of all heads, then k and v of all key-value heads."""
    heads, kv, size = _heads(config)
    parts = _pieces(0, q=heads * size, k=kv * size, v=kv * size)
    return Fused("oi", parts if parts[0][1].stride == shape[0] else ())


def _interleaved(shape: tuple[int, ...], config: Config) -> Fused:
    """q, k, v of one head beside each other."""
    _, _, size = _heads(config)
    return Fused("oi", _pieces(0, q=size, k=size, v=size))


def _falcon(shape: tuple[int, ...], config: Config) -> Fused:
    heads, _, size = _heads(config)
    if config.get("new_decoder_architecture"):
        kv = int(config["num_kv_heads"])
        return Fused("oi", _pieces(0, q=heads // kv * size, k=size, v=size))
    if config.get("multi_query", True):
        return Fused("oi", _pieces(0, q=heads * size, k=size, v=size))
    return _interleaved(shape, config)


def _bigcode(shape: tuple[int, ...], config: Config) -> Fused:
    heads, _, size = _heads(config)
    if config.get("multi_query", True):
        return Fused("oi", _pieces(0, q=heads * size, k=size, v=size))
    return _interleaved(shape, config)


def _gate_up(shape: tuple[int, ...], config: Config) -> Fused:
    return Fused("oi", _pieces(0, gate=shape[0] // 2, up=shape[0] // 2))


_GPT2: dict[str, Layout] = {
    "crossattention.c_attn": _halves_transposed,
    "attn.c_attn": _thirds_transposed,
    "c_attn": _transposed,
    "q_attn": _transposed,
    "c_proj": _transposed,
    "c_fc": _transposed,
}
_PHI3: dict[str, Layout] = {"qkv_proj": _grouped, "gate_up_proj": _gate_up}

FAMILIES: dict[str, dict[str, Layout]] = {
    "gpt2": _GPT2,
    "openai-gpt": _GPT2,
    "imagegpt": _GPT2,
    "decision_transformer": _GPT2,
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
