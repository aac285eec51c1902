"""Rows stand in the model's order: kept where the file has it, rebuilt from the names where it is alphabetical."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope.sources.layouts.layer_order import layer_order, natural_key

BERT = [
    "bert.embeddings.word_embeddings.weight",
    *(f"bert.encoder.layer.{i}.{module}.weight" for i in range(12) for module in (
        "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        "intermediate.dense", "output.dense",
    )),
    "bert.pooler.dense.weight", "classifier.weight",
]  # fmt: skip
LLAMA = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{module}.weight" for i in range(12) for module in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )),
    "model.norm.weight", "lm_head.weight",
]  # fmt: skip
GPT2 = [
    "wte.weight",
    *(f"h.{i}.{part}.weight" for i in range(12) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
    "ln_f.weight",
]  # fmt: skip
VGG = [*(f"features.{i}.weight" for i in range(0, 33, 3)), "classifier.0.weight", "classifier.3.weight"]
WHISPER = [
    "model.encoder.conv1.weight",
    *(f"model.encoder.layers.{i}.fc1.weight" for i in range(11)),
    "model.decoder.embed_tokens.weight",
    *(f"model.decoder.layers.{i}.fc1.weight" for i in range(11)),
    "proj_out.weight",
]
FLAX = ["params/Embed_0/embedding", *(f"params/Dense_{i}/kernel" for i in range(12)), "params/head/kernel"]


def ordered(names: list[str]) -> list[str]:
    return [names[i] for i in layer_order(names)]


@pytest.mark.parametrize("model", [BERT, LLAMA, GPT2, VGG, WHISPER, FLAX], ids=lambda model: model[0])
def test_an_alphabetical_order_becomes_the_model_s(model: list[str]) -> None:
    assert ordered(sorted(model)) == model
    assert ordered(model) == model


def test_shards_and_dtypes_each_in_alphabetical_order() -> None:
    half = len(LLAMA) // 2
    assert ordered([*sorted(LLAMA[:half]), *sorted(LLAMA[half:])]) == LLAMA


def test_an_order_that_says_something_is_kept() -> None:
    resnet = ["conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer1.0.bn1.weight",
              "layer1.0.downsample.0.weight", "layer2.0.conv1.weight", "fc.weight", "fc.bias"]  # fmt: skip
    assert ordered(resnet) == resnet
    onnx = ["onnx::MatMul_300", "conv.weight", "onnx::MatMul_250", "onnx::Add_7", "embed.weight"]
    assert ordered(onnx) == onnx


def test_blocks_that_a_converter_left_in_alphabetical_order() -> None:
    """GGUF: the names inside a block keep their order, the blocks are sorted, the head comes last."""
    parts = ["attn_norm", "ffn_down", "ffn_gate", "attn_k", "attn_q"]
    blocks = [f"blk.{i}.{part}.weight" for i in range(12) for part in parts]
    stored = ["output.weight", "token_embd.weight",
              *sorted(blocks, key=lambda name: (name.split(".")[1], parts.index(name.split(".")[2]))),
              "output_norm.weight"]  # fmt: skip
    assert ordered(stored) == ["token_embd.weight", *blocks, "output_norm.weight", "output.weight"]


def test_numbers_count_as_numbers() -> None:
    assert sorted(["layer10", "layer2", "layer1b", "a"], key=natural_key) == ["a", "layer1b", "layer2", "layer10"]


def test_hostile_names_are_ordered_too() -> None:
    names = [".".join("9" * 300 for _ in range(60)), "." * 5000, "٣.x", "²", "", "a." * 3000, "[", "a[b].c"]
    assert sorted(ordered(names)) == sorted(names)


def test_rows_numbers_and_shuffles_of_a_file(tmp_path: Path) -> None:
    """The order changes no number: shuffles are drawn by the position in the file."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    names = [f"layers.{i}.weight" for i in range(12)]
    tensors = {name: rng.standard_normal((60, 55)) for name in names}
    save_file(tensors, tmp_path / "model.safetensors")
    report = layerscope.analyze(tmp_path / "model.safetensors", randomize=True)
    assert [row.name for row in report.rows] == names
    assert [row.ref.index for row in report.rows] == list(range(12))
    stored = layerscope.analyze({name: tensors[name] for name in sorted(names)}, randomize=True)
    alone = {row.name: row.metrics["rand_distance"] for row in stored.rows}
    assert {row.name: row.metrics["rand_distance"] for row in report.rows} == alone
    assert "stored" not in report.to_json()
