"""Quantised weights: the libraries that write them, or the scheme's own definition, as the oracle."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.records.layers import LayerRef
from layerscope.records.sources import SourceSpec
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.state_dict import StateDict
from tests.requirements import require

SPEC = SourceSpec("test", "test", True, "test")
FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


def opened(tensors: dict[str, Any], config: dict[str, Any] | None = None) -> dict[str, tuple[LayerRef, Any]]:
    """Every row by name with its numbers, or None where it is skipped."""
    arrays = {name: np.asarray(array) for name, array in tensors.items()}
    infos = [TensorInfo(name, array.shape, array.dtype.name) for name, array in arrays.items()]
    source = StateDict(SPEC, infos, arrays.__getitem__, config)
    return {ref.name: (ref, None if ref.skipped else np.asarray(source.read(ref))) for ref in source.layers()}


def packed(codes: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Codes in words of 32 bits, lowest first: one big number per line, cut into words."""
    lines = np.moveaxis(codes, axis, -1)
    words = []
    for line in lines.reshape(-1, lines.shape[-1]):
        whole = sum(int(code) << (bits * i) for i, code in enumerate(line))
        words.append([(whole >> (32 * k)) & 0xFFFFFFFF for k in range(-(-len(line) * bits // 32))])
    array = np.array(words, np.uint32).reshape(*lines.shape[:-1], -1)
    return np.ascontiguousarray(np.moveaxis(array, -1, axis)).view(np.int32)  # safetensors writes memory order


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq_is_scale_times_code_less_zero(rng: np.random.Generator, bits: int, version: str) -> None:
    inputs, outputs, groups = 128, 96, 4
    codes = rng.integers(0, 2**bits, (inputs, outputs))
    zeros = rng.integers(1, 2**bits, (groups, outputs))
    scales = rng.random((groups, outputs)).astype(np.float16)
    order = rng.permutation(np.arange(inputs) // (inputs // groups)).astype(np.int32)
    stored = {
        "fc.qweight": packed(codes, bits, 0),
        "fc.qzeros": packed(zeros - (version == "gptq"), bits, 1),
        "fc.scales": scales,
        "fc.g_idx": order,
        "fc.bias": np.zeros(outputs, np.float16),
    }
    config = {"quantization_config": {"quant_method": "gptq", "bits": bits, "checkpoint_format": version}}
    rows = opened(stored, config)
    ref, weight = rows["fc.weight"]
    np.testing.assert_array_equal(weight, (codes - zeros[order]) * scales.astype(np.float32)[order])
    assert (ref.axes, ref.how) == ("io", f"decoded from GPTQ, {bits} bits, stored (in, out)")
    assert {row.kind for row, _ in rows.values()} == {"dense", "ingredient", "bias"}
    if version == "gptq":
        np.testing.assert_array_equal(opened(stored)["fc.weight"][1], weight)  # without its config


def test_awq_is_unpacked_in_its_own_order(rng: np.random.Generator) -> None:
    inputs, outputs, groups = 128, 64, 2
    codes, zeros = rng.integers(0, 16, (inputs, outputs)), rng.integers(0, 16, (groups, outputs))
    scales = rng.random((groups, outputs)).astype(np.float16)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # column of each nibble of a word, lowest first

    def words(values: np.ndarray) -> np.ndarray:
        return packed(values.reshape(len(values), -1, 8)[:, :, order].reshape(len(values), -1), 4, 1)

    stored = {"fc.qweight": words(codes), "fc.qzeros": words(zeros), "fc.scales": scales}
    _, weight = opened(stored, {"quantization_config": {"quant_method": "awq", "version": "gemm"}})["fc.weight"]
    row_scales = np.repeat(scales.astype(np.float32), inputs // groups, axis=0)
    np.testing.assert_array_equal(weight, (codes - np.repeat(zeros, inputs // groups, axis=0)) * row_scales)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_four_bits_equal_the_library(kind: str, nested: bool) -> None:
    torch = require("torch")
    functional = require("bitsandbytes.functional")
    weight = torch.randn(96, 256, generator=torch.Generator().manual_seed(0))
    codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=nested)
    stored = {"fc.weight": codes.numpy()}
    stored |= {f"fc.weight.{name}": part.numpy() for name, part in state.as_dict(packed=True).items()}
    rows = opened(stored)
    expected = functional.dequantize_4bit(codes, state).float().numpy()
    np.testing.assert_array_equal(rows["fc.weight"][1], expected)
    assert rows["fc.weight"][0].how == f"decoded from bitsandbytes {kind}"
    assert {ref.kind for name, (ref, _) in rows.items() if name != "fc.weight"} == {"ingredient"}


def test_bitsandbytes_eight_bits(rng: np.random.Generator) -> None:
    codes, scales = rng.integers(-127, 128, (70, 60)).astype(np.int8), rng.random(70).astype(np.float32)
    stored = {"fc.weight": codes, "fc.SCB": scales, "fc.weight_format": np.array(0, np.uint8)}
    np.testing.assert_allclose(opened(stored)["fc.weight"][1], codes * scales[:, None] / 127, rtol=1e-6)


@pytest.mark.parametrize("form", ["tensor", "row", "column vector", "blocks", "groups of a row"])
def test_fp8_with_scales(rng: np.random.Generator, form: str) -> None:
    import ml_dtypes

    codes = (10 * rng.standard_normal((300, 260))).astype(ml_dtypes.float8_e4m3fn)
    shapes = {"tensor": (), "row": (300,), "column vector": (300, 1), "blocks": (3, 3), "groups of a row": (300, 13)}
    scales = rng.random(shapes[form]).astype(np.float32)
    spread = scales if scales.ndim == 0 else scales.reshape(len(scales), -1)
    if form == "blocks":
        spread = np.repeat(np.repeat(scales, 128, axis=0)[:300], 128, axis=1)[:, :260]
    if form == "groups of a row":
        spread = np.repeat(scales, 20, axis=1)
    name = "fc.weight_scale_inv" if form == "blocks" else "fc.weight_scale"
    rows = opened({"fc.weight": codes, name: scales})
    np.testing.assert_array_equal(rows["fc.weight"][1], codes.astype(np.float32) * spread)
    assert rows[name][0].skipped == "part of fc.weight"


def test_mxfp4_of_gpt_oss_gives_a_row_per_expert_gate_and_up_apart(rng: np.random.Generator) -> None:
    experts, lines, groups = 3, 64, 4
    blocks = rng.integers(0, 256, (experts, lines, groups, 16)).astype(np.uint8)
    scales = rng.integers(110, 130, (experts, lines, groups)).astype(np.uint8)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    bias = np.zeros((experts, lines), np.float32)
    stored = {f"{name}_blocks": blocks, f"{name}_scales": scales, f"{name}_bias": bias}
    rows = opened(stored, {"model_type": "gpt_oss"})
    expected = np.array([[FP4[b & 15], FP4[b >> 4]] for b in blocks.reshape(-1)], np.float32)
    expected = expected.reshape(experts, lines, groups, 32) * 2.0 ** (scales.astype(np.float32) - 127)[..., None]
    expected = expected.reshape(experts, lines, -1)
    for i in range(experts):
        ref, gate = rows[f"model.layers.0.mlp.experts.{i}.gate_proj.weight"]
        np.testing.assert_array_equal(gate, expected[i, ::2])
        np.testing.assert_array_equal(rows[f"model.layers.0.mlp.experts.{i}.up_proj.weight"][1], expected[i, 1::2])
        assert (ref.axes, ref.shape) == ("oi", (lines // 2, 128))


@pytest.mark.parametrize("outer_name", ["weight_global_scale", "weight_scale_2"])
def test_nvfp4_divides_or_multiplies_by_its_global_scale(rng: np.random.Generator, outer_name: str) -> None:
    import ml_dtypes

    raw = rng.integers(0, 256, (70, 40)).astype(np.uint8)
    scales = rng.random((70, 5)).astype(ml_dtypes.float8_e4m3fn)
    outer = np.array([3.0], np.float32)
    codes = "fc.weight_packed" if outer_name == "weight_global_scale" else "fc.weight"
    _, weight = opened({codes: raw, "fc.weight_scale": scales, f"fc.{outer_name}": outer})["fc.weight"]
    values = np.array([[FP4[b & 15], FP4[b >> 4]] for b in raw.reshape(-1)]).reshape(70, 5, 16)
    factor = 1 / 3.0 if outer_name == "weight_global_scale" else 3.0
    np.testing.assert_allclose(weight, (values * scales.astype(float)[..., None] * factor).reshape(70, 80), rtol=1e-6)


def compressed_tensors_pack() -> Any:
    """The packing function of the library, loaded without the rest of the package."""
    package = importlib.util.find_spec("compressed_tensors")
    if package is None or not package.submodule_search_locations:
        pytest.skip("compressed-tensors is not installed: make test does it")
    path = Path(next(iter(package.submodule_search_locations)), "compressors/pack_quantized/helpers.py")
    spec = importlib.util.spec_from_file_location("packing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pack_to_int32


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 64), (3, 32), (4, 256)])
def test_compressed_tensors_packed_integers_equal_the_library(rng: np.random.Generator, bits: int, group: int) -> None:
    torch = require("torch")
    pack = compressed_tensors_pack()
    half, groups = 1 << (bits - 1), 256 // group
    codes = rng.integers(-half, half, (96, 256)).astype(np.int8)
    zeros, scales = rng.integers(-3, 3, (96, groups)).astype(np.int8), rng.random((96, groups)).astype(np.float32)
    stored = {
        "fc.weight_packed": pack(torch.from_numpy(codes), bits).numpy(),
        "fc.weight_zero_point": pack(torch.from_numpy(zeros), bits, packed_dim=0).numpy(),
        "fc.weight_scale": scales,
        "fc.weight_shape": np.array([96, 256]),
    }
    config = {"quantization_config": {"config_groups": {"group_0": {"weights": {"num_bits": bits}}}}}
    expected = (codes.astype(np.float32) - np.repeat(zeros, group, axis=1)) * np.repeat(scales, group, axis=1)
    np.testing.assert_allclose(opened(stored, config)["fc.weight"][1], expected, rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_mlx_is_affine(rng: np.random.Generator, bits: int) -> None:
    codes = rng.integers(0, 2**bits, (70, 128))
    scales, biases = (rng.random((70, 2)).astype(np.float32) for _ in range(2))
    stored = {"fc.weight": packed(codes, bits, 1).view(np.uint32), "fc.scales": scales, "fc.biases": biases}
    config = {"quantization": {"group_size": 64, "bits": bits}}
    expected = codes * np.repeat(scales, 64, axis=1) + np.repeat(biases, 64, axis=1)
    np.testing.assert_allclose(opened(stored, config)["fc.weight"][1], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "config", "scheme"),
    [
        (["fc.W_q", "fc.scale"], {"quant_method": "hqq"}, "hqq"),
        (["fc.codes", "fc.codebooks", "fc.scales"], {}, "AQLM"),
        (["fc.q_weight", "fc.q_scale"], {}, "EXL2"),
        (["fc.weight._data", "fc.weight._scale"], {}, "quanto"),
        (["fc.B", "fc.s"], {"quant_method": "marlin"}, "marlin"),
        (["fc.weight"], {"quant_method": "something_new"}, "something_new"),
    ],
)
def test_unknown_schemes_are_refused_by_name(names: list[str], config: dict[str, Any], scheme: str) -> None:
    stored: dict[str, Any] = {names[0]: np.ones((70, 60), np.int32)}
    stored |= {name: np.ones((70, 60), np.float32) for name in names[1:]}
    rows = opened(stored, {"quantization_config": config})
    assert all(array is None for _, array in rows.values())
    assert f"quantized with {scheme}, not decoded" in {ref.skipped for ref, _ in rows.values()}


def test_parts_that_do_not_fit_are_listed_and_not_read(rng: np.random.Generator) -> None:
    good = {
        "fc.qweight": packed(rng.integers(0, 16, (128, 64)), 4, 0),
        "fc.qzeros": packed(rng.integers(0, 15, (4, 64)), 4, 1),
        "fc.scales": np.ones((4, 64), np.float16),
    }
    for change in ({"fc.scales": np.ones((3, 64), np.float16)}, {"fc.qzeros": np.ones((4, 3), np.int32)},
                   {"fc.g_idx": np.zeros(5, np.int32)}):  # fmt: skip
        ref, array = opened({**good, **change})["fc.weight"]
        assert array is None
        assert ref.skipped.startswith("quantized, but its")
    beyond = {**good, "fc.g_idx": np.full(128, 9, np.int32)}
    report = layerscope.analyze(beyond)
    assert report.layers["fc.weight"].failed
    assert "the group index exceeds the number of scales" in report.layers["fc.weight"].skipped


def test_a_large_quantised_layer_is_never_whole(rng: np.random.Generator) -> None:
    from layerscope.numerics.lazy_rows import Rows

    inputs, outputs = 8192, 4096
    words = rng.integers(-(2**31), 2**31, (inputs // 8, outputs)).astype(np.int32)
    stored = {
        "fc.qweight": words,
        "fc.qzeros": np.zeros((1, outputs // 8), np.int32),
        "fc.scales": np.ones((1, outputs), np.float16),
    }
    infos = [TensorInfo(name, array.shape, array.dtype.name) for name, array in stored.items()]
    source = StateDict(SPEC, infos, stored.__getitem__, None)
    [ref] = [ref for ref in source.layers() if ref.axes]
    rows = source.read(ref)
    assert isinstance(rows, Rows)
    np.testing.assert_array_equal(rows[100:107], np.asarray(rows)[100:107])


def test_a_folder_with_a_quantised_model_is_analysed_with_its_config(tmp_path: Path, rng: np.random.Generator) -> None:
    from safetensors.numpy import save_file

    codes = rng.integers(0, 16, (128, 96))
    stored = {
        "model.layers.0.self_attn.q_proj.qweight": packed(codes, 4, 0),
        "model.layers.0.self_attn.q_proj.qzeros": packed(np.full((4, 96), 7), 4, 1),
        "model.layers.0.self_attn.q_proj.scales": np.ones((4, 96), np.float16),
    }
    save_file(stored, tmp_path / "model.safetensors")
    config = {"model_type": "llama", "num_attention_heads": 4, "hidden_size": 96, "head_dim": 24}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    report = layerscope.analyze(tmp_path)
    row = report.layers["model.layers.0.self_attn.q_proj.weight"]
    assert row.ref.heads == 4
    exact = np.linalg.svd((codes - 8).astype(float), compute_uv=False)[0] ** 2
    assert row.metrics["lambda_max"] == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("scale_name", ["weights_scaling_factor", "scale_weight"])
@pytest.mark.parametrize("per_row", [False, True])
def test_fp8_scales_of_tensorrt_llm_and_comfyui(rng: np.random.Generator, scale_name: str, per_row: bool) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    weight = rng.normal(size=(256, 128)) * 0.03
    scale = rng.uniform(0.005, 0.02, (256, 1) if per_row else ()).astype(np.float32)
    codes = (weight / scale).astype(ml_dtypes.float8_e4m3fn)
    stored = {"mlp.fc.weight": codes, f"mlp.fc.{scale_name}": scale, "mlp.fc.activation_scaling_factor": np.float32(3)}
    ref, decoded = opened(stored)["mlp.fc.weight"]
    assert ref.skipped == ""
    np.testing.assert_allclose(decoded, codes.astype(np.float64) * scale, rtol=1e-6)


@pytest.mark.parametrize("name", ["strange_scaling", "weights_block_scaling_factor", "absmax", "qmap", "zeros"])
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8"])
def test_unknown_scales_stop_the_reading(rng: np.random.Generator, name: str, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = (rng.normal(size=(64, 32)) * 20).astype(getattr(ml_dtypes, dtype, np.int8))
    rows = opened({"fc.weight": codes, f"fc.{name}": np.ones((64, 4), np.float32), "ln.weight": np.ones(64)})
    assert {row for row, (ref, _) in rows.items() if ref.kind == "quantized"} == {"fc.weight", f"fc.{name}"}
    assert name in rows["fc.weight"][0].skipped
    beside_known = {"fc.weight": codes, "fc.weight_scale": np.ones((64, 1), np.float32), f"fc.{name}": np.ones(64)}
    assert name in opened(beside_known)["fc.weight"][0].skipped


def test_a_scale_elsewhere_in_the_model_does_not_matter(rng: np.random.Generator) -> None:
    rows = opened({"text_projection": rng.normal(size=(60, 50)), "logit_scale": np.ones(()), "head.weight": np.eye(50)})
    assert [name for name, (ref, _) in rows.items() if not ref.skipped] == ["text_projection", "head.weight"]


def test_distances_of_codes_that_are_not_decoded_are_refused(rng: np.random.Generator) -> None:
    codes = rng.integers(-100, 100, (64, 32)).astype(np.int8)
    weights = rng.normal(size=(50, 64))
    model = {"fc.weight": codes, "fc.qmap": np.ones((64, 4)), "head.weight": weights}
    other = {**model, "fc.qmap": np.zeros((64, 4)), "head.weight": weights + 1}
    with pytest.raises(layerscope.errors.UsageError, match=r"fc\.weight is quantized"):
        layerscope.distances({"a": model, "b": other})
    distances = layerscope.distances({"a": model, "b": other}, partial=True)
    assert distances.matrix("l2")[0, 1] == pytest.approx(np.sqrt(weights.size))  # the code table is not counted


@pytest.mark.parametrize(
    "name",
    [
        "a.weight.scale",
        "a.weight._scale",
        "a.weight_quantizer._scale",
        "a.sub.scale",
        "a_scale",
        "a.weight_quantizer._amax",
    ],
)
def test_a_scale_below_or_named_after_a_float8_weight_stops_the_reading(rng: np.random.Generator, name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = (rng.normal(size=(64, 60)) * 20).astype(ml_dtypes.float8_e4m3fn)
    rows = opened({"a.weight": codes, name: np.float32(0.01), "b.weight": codes, "b.input_scale": np.float32(1)})
    assert "not decoded" in rows["a.weight"][0].skipped
    assert rows["b.weight"][0].skipped == ""
