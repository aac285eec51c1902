"""GGUF files against the Hugging Face models that they were converted from; the gguf package gives the names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.tensor_names import matching_keys
from tests.requirements import require

gguf: Any = require("gguf")
torch: Any = require("torch")
transformers: Any = require("transformers")

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 8, "vocab_size": 90}
HEADS = {"num_key_value_heads": 4, "head_dim": 8}
MODELS = {  # architecture of GGUF → configuration class, its settings
    "llama": ("LlamaConfig", HEADS),
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 4}),
    "qwen3": ("Qwen3Config", HEADS),
    "gemma2": ("Gemma2Config", HEADS),
    "gemma3": ("Gemma3TextConfig", HEADS),
    "phi2": ("PhiConfig", {}),
    "starcoder2": ("Starcoder2Config", {"num_key_value_heads": 4}),
    "gptneox": ("GPTNeoXConfig", {}),
    "bert": ("BertConfig", {}),
    "olmo2": ("Olmo2Config", {"num_key_value_heads": 4}),
}


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's conversion does to q and k: row i of the first half of a head, then row i of the second."""
    order = np.arange(len(rows)).reshape(heads, 2, -1).transpose(0, 2, 1).ravel()
    return rows[order]


def model_of(architecture: str) -> Any:
    torch.manual_seed(0)
    name, settings = MODELS[architecture]
    return transformers.AutoModel.from_config(getattr(transformers, name)(**{**SMALL, **settings}))


def converted(path: Path, architecture: str, weights: dict[str, np.ndarray], quantized: bool = False) -> list[str]:
    """Write the tensors that have a name in GGUF, and return their names in the model."""
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), SMALL["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(SMALL["num_attention_heads"])
    writer.add_head_count_kv(HEADS["num_key_value_heads"])
    written = []
    for name, array in weights.items():
        forms = (name, f"model.{name}", f"bert.{name}", f"gpt_neox.{name}")
        new = next((new for form in forms if (new := names.get_name(form, (".weight", ".bias")))), None)
        if new is None:
            continue
        written.append(name)
        for part, heads in (("q_proj", 8), ("k_proj", 4)):
            array = interleaved(array, heads) if architecture == "llama" and part in name else array
        if quantized and array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(new, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(new, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


@pytest.mark.parametrize("architecture", MODELS)
def test_a_conversion_has_distance_zero(tmp_path: Path, architecture: str) -> None:
    weights = {name: value.numpy() for name, value in model_of(architecture).state_dict().items()}
    written = converted(tmp_path / "model.gguf", architecture, weights)
    distances = layerscope.distances({"a": weights, "b": tmp_path / "model.gguf"}, partial=True)
    assert distances.matrix("l2")[0, 1] == 0
    missed = [name for name in weights if not name.endswith(("inv_freq", "position_ids", "token_type_ids"))]
    assert len(distances.tensors) == len(written)
    assert len(written) >= 0.8 * len(missed)


@pytest.mark.parametrize("quantized", [False, True])
def test_base_and_compare_match_a_conversion(tmp_path: Path, quantized: bool) -> None:
    weights = {name: value.numpy() for name, value in model_of("llama").state_dict().items()}
    converted(tmp_path / "model.gguf", "llama", weights, quantized)
    wrapped = {f"model.language_model.{name}": value for name, value in weights.items()}
    report = layerscope.analyze(wrapped, base=tmp_path / "model.gguf", min_evals=5)
    matrices = [row for row in report.rows if "layers." in row.name and len(row.ref.shape) == 2]
    assert len(matrices) == 7 * 3
    for row in matrices:
        if quantized:
            assert row.metrics["sv_max"] < 0.02
        else:
            assert row.skipped == "unchanged from the base model"
    comparison = layerscope.compare(weights, tmp_path / "model.gguf", min_evals=5)
    assert "blk.2.ffn_down.weight" in repr(comparison)


def test_rows_are_read_in_the_same_order_in_parts(tmp_path: Path) -> None:
    weights = {name: value.numpy() for name, value in model_of("llama").state_dict().items()}
    converted(tmp_path / "model.gguf", "llama", weights, quantized=True)
    with layerscope.sources.opening.opened_source(tmp_path / "model.gguf") as source:
        ref = next(ref for ref in source.layers() if ref.name == "blk.1.attn_k.weight")
        rows = source.read(ref)
        whole = np.asarray(rows)
        np.testing.assert_allclose(whole, weights["layers.1.self_attn.k_proj.weight"], atol=1e-3)
        for first, stop in ((0, 3), (3, 9), (7, 32), (15, 17)):
            np.testing.assert_array_equal(np.asarray(rows[first:stop]), whole[first:stop])


def test_experts_of_a_mixture() -> None:
    names = [
        f"model.layers.{i}.mlp.experts.{e}.{p}_proj.weight" for i in (0, 1) for e in (0, 1) for p in ("gate", "up")
    ]
    names += [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 1) for p in "qkvo"]
    theirs = [f"blk.{i}.ffn_{p}_exps.{e}.weight" for i in (0, 1) for e in (0, 1) for p in ("gate", "up")]
    theirs += [f"blk.{i}.attn_{p}.weight" for i in (0, 1) for p in ("q", "k", "v", "output")]
    ours, _ = matching_keys(names, theirs)
    assert list(ours.values()) == theirs


def test_names_that_could_be_two_tensors_are_left_alone() -> None:
    names = ["model.layers.0.self_attn.q_proj.weight", "layers.0.self_attn.q_proj.weight"]
    names += [f"model.layers.0.mlp.{p}_proj.weight" for p in ("gate", "up", "down")]
    theirs = ["blk.0.attn_q.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"]
    ours, _ = matching_keys(names, theirs)
    assert [ours[name] for name in names] == [*names[:2], *theirs[1:]]
    assert list(matching_keys(["a.weight", "b.weight"], theirs)[0].values()) == ["a.weight", "b.weight"]
