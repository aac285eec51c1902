"""The role and the block of a tensor, by its name, kind and shape: attention query of block 3, 3×3 convolution.

Roles group layers that can be compared: baselines are kept, and changes are summarized, by role.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

OTHER = "dense"
ROLES = (
    "embedding", "attention query", "attention key", "attention value", "attention query, key, value",
    "attention output", "MLP up", "MLP gate", "MLP down", "expert", "convolution 1×1", "convolution 3×3",
    "convolution larger", "convolution 1-D", "depthwise convolution", "recurrent", "head", "low-rank factor",
    "norm", "bias", OTHER, "other",
)  # fmt: skip
PROJECTIONS = {
    "attention query": "q q_proj q_lin q_proj_weight query query_proj wq to_q attn_q linear_q",
    "attention key": "k k_proj k_lin k_proj_weight key key_proj wk to_k attn_k linear_k",
    "attention value": "v v_proj v_lin v_proj_weight value value_proj wv to_v attn_v linear_v",
    "attention query, key, value": "qkv qkv_proj c_attn query_key_value in_proj in_proj_weight attn_qkv wqkv kv to_kv",
    "attention output": "o o_proj out_lin out_proj wo to_out attn_output linear_out c_proj_attn",
    "MLP gate": "gate_proj w1 ffn_gate gate wg",
    "MLP up": "up_proj w3 ffn_up c_fc fc_in wi wi_0 wi_1 lin1 linear1 fc1 dense_h_to_4h gate_up_proj up",
    "MLP down": "down_proj w2 ffn_down fc_out lin2 linear2 fc2 dense_4h_to_h down",
}
ROLE_BY_WORD = {word: role for role, words in PROJECTIONS.items() for word in words.split()}
ATTENTION_WORDS = frozenset(
    ["attn", "attention", "self_attn", "self_attention", "crossattention", "encdecattention", "sa", "mha"]
)
MLP_WORDS = frozenset(["mlp", "ffn", "feed_forward", "feedforward", "ff", "intermediate"])
HEAD_WORDS = frozenset(
    ["lm_head", "head", "classifier", "fc", "score", "output_layer", "embed_out", "cls", "logits", "prediction"]
)
SINGLE_LETTERS = frozenset(["q", "k", "v", "o"])  # words that mean a projection only inside attention
BETWEEN_WORDS = re.compile(r"[./:]")
NUMBER = re.compile(r"\d+")
MAX_NAME_CHARS = 400


def role_of(name: str, kind: str, shape: Sequence[int] = (), axes: str = "", groups: int = 1) -> str:
    """Return the role of a tensor.

    :param name: name of the tensor; a part in brackets, as in ``qkv[q]``, decides first.
    :param kind: kind of the layer, as in ``LayerRef.kind``.
    :param shape: shape of the tensor.
    :param axes: letters of its axes, as in ``LayerRef.axes``.
    :param groups: groups of a convolution.
    """
    if kind == "embedding":
        return "embedding"
    if kind.endswith("norm"):
        return "norm"
    if kind in ("bias", "lora"):
        return "bias" if kind == "bias" else "low-rank factor"
    words, part = words_of(name)
    by_name = role_of_words(words, part)
    if kind.startswith("conv"):
        return by_name or _role_of_convolution(shape, axes, groups)
    if kind in ("lstm", "gru", "rnn"):
        return "recurrent"
    if by_name:
        return by_name
    if len(shape) < 2 and kind != OTHER:
        return "other"
    return "head" if not HEAD_WORDS.isdisjoint(words[-2:]) else OTHER


def words_of(name: str) -> tuple[list[str], str]:
    """Return the words of a name in lower case, without the suffix of a weight, and the part in brackets."""
    whole, _, part = name[:MAX_NAME_CHARS].partition("[")
    words = [word for word in BETWEEN_WORDS.split(whole.lower()) if word]
    if len(words) > 1 and words[-1] in ("weight", "kernel", "bias", "w", "base_layer"):
        words = words[:-1]
    return words, part.rstrip("]").lower()


def role_of_words(words: Sequence[str], part: str) -> str:
    """Return the role that the words of a name state, or ""."""
    in_attention = any(word in ATTENTION_WORDS or "attn" in word or "attention" in word for word in words)
    in_mlp = any(word in MLP_WORDS for word in words) and not in_attention
    for word in (part, *reversed(words)):
        role = ROLE_BY_WORD.get(word, "")
        if role.startswith("attention") and word in SINGLE_LETTERS and not in_attention:
            continue
        if role:
            return role
        if word == "c_proj":
            return "attention output" if in_attention else "MLP down"
        if word in ("dense", "proj", "out", "wo") and "intermediate" in words:
            return "MLP up"
        if word in ("dense", "proj", "out", "wo") and (in_attention or in_mlp or "output" in words):
            return "attention output" if in_attention else "MLP down"
    return ""


def _role_of_convolution(shape: Sequence[int], axes: str, groups: int) -> str:
    sizes = dict(zip(axes, shape, strict=False))
    window = [size for axis, size in sizes.items() if axis in "dhw"]
    outputs, inputs = sizes.get("o", 1), sizes.get("i", 1)
    if max(window, default=1) > 1 and min(outputs, inputs) == 1 < max(outputs, inputs) and outputs >= groups:
        return "depthwise convolution"
    if len(window) == 1:
        return "convolution 1-D" if window[0] > 1 else "convolution 1×1"
    side = max(window, default=1)
    return "convolution 1×1" if side == 1 else "convolution 3×3" if side == 3 else "convolution larger"


def block_of(name: str) -> int | None:
    """Return the number of the block of a tensor, the first number among the words of its name, or None."""
    words, _ = words_of(name)
    for word in words[:-1]:
        if word.isdecimal():
            return int(word)
    for word in words:  # layer3_conv1
        if match := NUMBER.search(word):
            return int(match[0])
    return None
