"""Roles and blocks of tensors, by their names."""

from __future__ import annotations

import pytest

from layerscope.tensor_roles import block_of, role_of


@pytest.mark.parametrize(
    ("name", "role", "block"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "attention query", 3),
        ("blk.12.attn_output.weight", "attention output", 12),
        ("encoder.layer.5.attention.output.dense.weight", "attention output", 5),
        ("encoder.layer.5.intermediate.dense.weight", "MLP up", 5),
        ("encoder.layer.5.output.dense.weight", "MLP down", 5),
        ("transformer.h.0.attn.c_attn.weight", "attention query, key, value", 0),
        ("transformer.h.0.attn.c_attn.weight[k]", "attention key", 0),
        ("transformer.h.0.attn.c_proj.weight", "attention output", 0),
        ("transformer.h.0.mlp.c_proj.weight", "MLP down", 0),
        ("model.layers.7.mlp.experts.3.w1.weight", "MLP gate", 7),
        ("distilbert.transformer.layer.1.ffn.lin2.weight", "MLP down", 1),
        ("params/Block_2/mlp/gate_proj/kernel", "MLP gate", 2),
        ("lm_head.weight", "head", None),
        ("fc.weight", "head", None),
        ("net.0.weight", "dense", 0),
        ("hidden.weight", "dense", None),
    ],
)
def test_names_say_the_role_and_the_block(name: str, role: str, block: int | None) -> None:
    assert role_of(name, "dense", (64, 64), "oi") == role
    assert block_of(name) == block


@pytest.mark.parametrize(
    ("shape", "axes", "role"),
    [
        ((64, 32, 1, 1), "oihw", "convolution 1×1"),
        ((64, 32, 3, 3), "oihw", "convolution 3×3"),
        ((64, 3, 7, 7), "oihw", "convolution larger"),
        ((64, 1, 3, 3), "oihw", "depthwise convolution"),
        ((64, 32, 5), "oid"[:2] + "w", "convolution 1-D"),
    ],
)
def test_convolutions_have_the_role_of_their_kernel(shape: tuple[int, ...], axes: str, role: str) -> None:
    assert role_of("features.3.weight", "conv2d", shape, axes) == role


def test_kinds_decide_before_names() -> None:
    assert role_of("embed.q_proj.weight", "embedding") == "embedding"
    assert role_of("layers.0.rnn.weight_ih", "lstm") == "recurrent"
    assert role_of("x.q_proj.bias", "bias") == "bias"
    assert role_of("layers.0.input_layernorm.weight", "norm") == "norm"
