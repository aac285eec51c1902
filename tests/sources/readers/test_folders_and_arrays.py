"""Folders, hub ids, npz files and dicts of arrays."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope.errors import Refused, TargetError, TargetNotFound, UnknownFormat, Unreadable
from layerscope.sources.layouts.fused_projections import fused_parts
from layerscope.sources.layouts.torch_names import TensorInfo, layers_of
from tests.requirements import require


def hf_folder(folder: Path, weights: dict[str, np.ndarray], config: dict[str, object]) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_gpt2_projections_are_split_and_stored_transposed(tmp_path: Path, rng: np.random.Generator) -> None:
    w = rng.standard_normal((64, 192)).astype(np.float32)
    folder = hf_folder(tmp_path / "m", {"h.0.attn.c_attn.weight": w}, {"model_type": "gpt2", "n_head": 4, "n_embd": 64})
    report = layerscope.analyze(folder)
    assert [row.name for row in report.rows] == [f"h.0.attn.c_attn.weight[{x}]" for x in "qkv"]
    exact = np.linalg.svd(w[:, 64:128], compute_uv=False)[::-1] ** 2
    np.testing.assert_allclose(report.rows[1].spectrum.evals, exact, rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]
    assert report.rows[1].ref.how == "stored (in, out), split q, k, v"


def test_interleaved_heads_are_gathered(rng: np.random.Generator) -> None:
    heads, size, hidden = 4, 8, 32
    config = {"model_type": "gpt_neox", "num_attention_heads": heads, "hidden_size": hidden}
    w = rng.standard_normal((3 * hidden, hidden))
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    [_, k, _] = layers_of([TensorInfo(name, w.shape, "float32")], config)
    from layerscope.numerics.matrices import take

    np.testing.assert_array_equal(take(w, k.part), w.reshape(heads, 3, size, hidden)[:, 1].reshape(hidden, hidden))


@pytest.mark.parametrize(
    ("config", "name", "rows", "sizes"),
    [
        ({"model_type": "phi3", "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64},
         "model.layers.0.self_attn.qkv_proj.weight", 96, {"q": 64, "k": 16, "v": 16}),
        ({"model_type": "phi3", "num_attention_heads": 8, "hidden_size": 64},
         "model.layers.0.mlp.gate_up_proj.weight", 100, {"gate": 50, "up": 50}),
        ({"model_type": "falcon", "num_attention_heads": 8, "hidden_size": 64, "multi_query": True},
         "h.0.self_attention.query_key_value.weight", 80, {"q": 64, "k": 8, "v": 8}),
        ({"model_type": "falcon", "num_attention_heads": 8, "hidden_size": 64, "new_decoder_architecture": True,
          "num_kv_heads": 2}, "h.0.self_attention.query_key_value.weight", 96, {"q": 64, "k": 16, "v": 16}),
        ({"model_type": "mpt", "n_heads": 8, "d_model": 64},
         "blocks.0.attn.Wqkv.weight", 192, {"q": 64, "k": 64, "v": 64}),
    ],
)  # fmt: skip
def test_fused_layouts_by_family(config: dict[str, object], name: str, rows: int, sizes: dict[str, int]) -> None:
    fused = fused_parts(name, (rows, 64), config)
    assert fused is not None
    assert {label: part.count(rows) for label, part in fused.parts} == sizes


def test_a_config_that_lacks_a_number_leaves_the_projection_whole() -> None:
    assert fused_parts("x.self_attention.query_key_value.weight", (192, 64), {"model_type": "bloom"}) is None
    whole = layers_of(
        [TensorInfo("x.attention.query_key_value.weight", (192, 64), "float32")], {"model_type": "gpt_neox"}
    )
    assert [ref.name for ref in whole] == ["x.attention.query_key_value.weight"]


def test_safetensors_are_preferred_to_bin_of_the_same_model(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    folder = hf_folder(tmp_path / "m", weights, {})
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02 never opened")
    (folder / "training_args.bin").write_bytes(b"\x80\x02 never opened")
    assert len(layerscope.describe(folder).rows) == len(weights)


def test_a_folder_with_two_models_names_them(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(weights, tmp_path / "a.safetensors")
    save_file(weights, tmp_path / "b.safetensors")
    with pytest.raises(Unreadable, match="holds 2 models: a.safetensors, b.safetensors; pass one"):
        layerscope.analyze(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"a":' * 10000])
def test_a_damaged_config_is_unreadable(tmp_path: Path, weights: dict[str, np.ndarray], text: str) -> None:
    folder = hf_folder(tmp_path / "m", weights, {})
    (folder / "config.json").write_text(text)
    with pytest.raises(Unreadable, match=r"config\.json"):
        layerscope.analyze(folder)


@pytest.fixture
def hub(tmp_path: Path, weights: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--org--tiny-net"
    hf_folder(folder / "snapshots" / "abc123", weights, {})
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123")
    return folder


@pytest.mark.parametrize("hub_id", ["org/tiny-net", "org/tiny-net@main", "org/tiny-net@abc123"])
def test_a_hub_id_is_found_in_the_cache(hub: Path, hub_id: str) -> None:
    report = layerscope.describe(hub_id)
    assert len(report.rows) == 6
    assert report.meta["target"] == hub_id


@pytest.mark.parametrize(
    ("hub_id", "message"),
    [
        ("org/tiny-nets", "did you mean 'org/tiny-net'"),
        ("other/net", "Download it first: hf download other/net"),
        ("org/tiny-net@v9", "no such revision; known: abc123"),
        ("org/tiny-net@../../x", "no such revision"),
    ],
)
def test_a_hub_id_that_is_not_there_gets_one_line(hub: Path, hub_id: str, message: str) -> None:
    with pytest.raises(TargetNotFound, match=message) as caught:
        layerscope.analyze(hub_id)
    assert "\n" not in str(caught.value)


def test_npz_reads_equal_to_a_dict(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    np.savez_compressed(tmp_path / "m.npz", **weights)
    found, expected = layerscope.analyze(tmp_path / "m.npz"), layerscope.analyze(weights)
    assert [dict(r.metrics) for r in found.rows] == [dict(r.metrics) for r in expected.rows]


def test_npz_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", w=np.array([{"a": 1}], dtype=object))
    with pytest.raises(Refused, match="pickled objects"):
        layerscope.analyze(tmp_path / "m.npz")


def test_npz_that_lies_about_its_size_is_unreadable(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000), }".ljust(118) + b"\n"
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16))
    with pytest.raises(Unreadable, match="claims"):
        layerscope.analyze(tmp_path / "m.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"hello\n"])
def test_damaged_npz_is_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(TargetError):
        layerscope.analyze(tmp_path / "m.npz")


def test_dicts_may_nest_and_hold_torch_tensors(rng: np.random.Generator) -> None:
    torch = require("torch")
    w = rng.standard_normal((70, 60))
    report = layerscope.analyze({"a": {"weight": w}, "b": {"weight": torch.from_numpy(w)}})
    assert report.layers["a.weight"].metrics == report.layers["b.weight"].metrics


@pytest.mark.parametrize("target", [{}, {"a": "text"}, {"lr": 0.1}])
def test_a_dict_without_arrays_is_unreadable(target: dict[str, object]) -> None:
    with pytest.raises(Unreadable, match="holds no arrays"):
        layerscope.analyze(target)


@pytest.mark.parametrize("target", [3, None, object(), [1, 2]])
def test_other_objects_are_unknown(target: object) -> None:
    with pytest.raises(UnknownFormat, match="cannot analyze an object of type"):
        layerscope.analyze(target)


def test_every_tensor_appears(weights: dict[str, np.ndarray]) -> None:
    report = layerscope.analyze(
        {**weights, "steps": np.array(3), "none.weight": np.zeros((0, 5)), "six": np.zeros((1,) * 6)}
    )
    assert [row.name for row in report.rows] == [*weights, "steps", "none.weight", "six"]
    assert all(row.skipped or row.spectrum is not None for row in report.rows)
    assert [row.ref.index for row in report.rows] == list(range(9))


def test_minilm_has_39_matrices_and_says_why_not_for_the_rest(minilm: Path) -> None:
    report = layerscope.analyze(minilm)
    analysed = [row for row in report.rows if not row.skipped]
    assert sum("alpha" in row.metrics for row in analysed) == 39
    assert len(report.rows) == 104
    assert report.layers["embeddings.position_ids"].skipped.startswith("int64 data")
    assert {row.ref.kind for row in analysed} == {"embedding", "dense"}


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_single_npy_array_is_mapped(tmp_path: Path, rng: np.random.Generator, order: str) -> None:
    from layerscope.sources.opening import open_target

    array = np.asarray(rng.standard_normal((80, 60)).astype(np.float32), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "w.npy", array)
    source = open_target(tmp_path / "w.npy")
    [ref] = source.layers()
    np.testing.assert_array_equal(source.read(ref), array)
    assert ref.name == "w"
    raw = (tmp_path / "w.npy").read_bytes()
    for cut in (0, 5, 6, 50, 130, len(raw) - 1):
        (tmp_path / "cut.npy").write_bytes(raw[:cut])
        with pytest.raises(TargetError):
            open_target(tmp_path / "cut.npy")
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(Refused):
        open_target(tmp_path / "o.npy")
