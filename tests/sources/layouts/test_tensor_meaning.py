"""What a tensor means, where its shape alone would mislead: found by readers who compared with the frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.sources.layouts.fused_projections import fused_parts
from layerscope.sources.layouts.torch_names import TensorInfo, layers_of
from layerscope.sources.opening import open_target
from tests.requirements import require
from tests.sources.quantization.test_quantization import opened, packed

torch = require("torch")


def laid(shapes: dict[str, tuple[int, ...]], config: dict[str, Any] | None = None) -> dict[str, Any]:
    refs = layers_of([TensorInfo(name, shape, "float32") for name, shape in shapes.items()], config)
    return {ref.name: ref for ref in refs}


def test_biases_of_two_axes_are_biases() -> None:
    refs = laid({"mlp.experts.gate_up_proj_bias": (4, 90), "blk.0.ffn_gate_exps.bias": (3, 48),
                 "attn.relative_position_bias_table": (169, 60)})  # fmt: skip
    assert [ref.kind for ref in refs.values()] == ["bias", "bias", "dense"]


def test_an_nnx_state_in_orbax_is_read_as_flax(tmp_path: Path) -> None:
    nnx, orbax = require("flax.nnx"), require("orbax.checkpoint")

    class Net(nnx.Module):  # type: ignore[name-defined,misc]
        def __init__(self, rngs: Any) -> None:
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs)

    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path.resolve() / "m", nnx.state(Net(nnx.Rngs(0)), nnx.Param))
    refs = {ref.name.removesuffix(".value"): ref for ref in open_target(tmp_path / "m").layers()}
    assert refs["conv.kernel"].axes == "hwio"
    assert (refs["attention.query.kernel"].axes, refs["attention.query.kernel"].heads) == ("io", 2)
    assert refs["attention.query.bias"].kind == "bias"


@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv"])
def test_scales_that_are_exponents(rng: np.random.Generator, name: str) -> None:
    import ml_dtypes

    codes = rng.standard_normal((64, 128)).astype(ml_dtypes.float8_e4m3fn)
    scales = rng.integers(120, 130, (64, 4)).astype(np.uint8)
    _, weight = opened({"l.weight": codes, f"l.{name}": scales})["l.weight"]
    block_scales = np.repeat(2.0 ** (scales.astype(np.float32) - 127), 32, axis=1)
    np.testing.assert_array_equal(weight, codes.astype(np.float32) * block_scales)


@pytest.mark.parametrize("model", ["", "qwen3_vl_moe", "aria_text", "mixtral"])
@pytest.mark.parametrize("across", [False, True])
def test_the_pair_of_tensors_tells_how_experts_lie(model: str, across: bool) -> None:
    up, down = ((2, 8, 12), (2, 6, 8)) if across else ((2, 12, 8), (2, 8, 6))
    refs = laid({"mlp.experts.gate_up_proj": up, "mlp.experts.down_proj": down}, {"model_type": model})
    assert refs["mlp.experts.1.up_proj.weight"].axes == ("io" if across else "oi")
    assert refs["mlp.experts.1.up_proj.weight"].shape == ((8, 6) if across else (6, 8))


def test_an_mlx_weight_without_its_configuration_is_not_guessed(rng: np.random.Generator) -> None:
    stored = {"l.weight": packed(rng.integers(0, 16, (70, 128)), 4, 1).view(np.uint32),
              "l.scales": np.ones((70, 4), np.float32), "l.biases": np.ones((70, 4), np.float32)}  # fmt: skip
    ref, _ = opened(stored)["l.weight"]
    assert "configuration lacks valid bits and group_size" in ref.skipped
    config = {"quantization": {"group_size": 64, "bits": 8, "l": {"group_size": 32, "bits": 4}}}
    assert opened(stored, config)["l.weight"][1].shape == (70, 128)


@pytest.mark.parametrize("width", [np.float32, np.uint16])
def test_bitsandbytes_codes_in_the_words_of_another_type(rng: np.random.Generator, width: Any) -> None:
    codes = rng.integers(0, 256, (32 * 64 // 2, 1)).astype(np.uint8)
    state = np.frombuffer(b'{"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[32,64]}', np.uint8)
    parts = {"l.weight.absmax": np.ones(32, np.float32), "l.weight.quant_map": np.arange(16, dtype=np.float32),
             "l.weight.quant_state.bitsandbytes__nf4": state}  # fmt: skip
    plain, wide = (
        opened({"l.weight": c, **parts})["l.weight"][1] for c in (codes, codes.reshape(-1).view(width)[:, None])
    )
    np.testing.assert_array_equal(plain, wide)


def test_scales_under_other_names_belong_to_their_weights(rng: np.random.Generator) -> None:
    import ml_dtypes

    codes = rng.standard_normal((256, 384)).astype(ml_dtypes.float8_e4m3fn)
    rows = opened({"l.weight": codes, "l.scale": rng.random((2, 3)).astype(np.float32)})
    assert [ref.kind for ref, _ in rows.values()] == ["dense", "ingredient"]
    rows = opened({"l.weight": codes, "l.strange_scales": rng.random((2, 3)).astype(np.float32)})
    assert all(array is None for _, array in rows.values())


def test_normal_models_are_not_taken_for_quantised_ones(rng: np.random.Generator) -> None:
    stored = {
        "attn.relative_position_index": np.zeros((49, 49), np.int64),
        "attn.relative_position_bias_table": np.ones((169, 60)),
        "made.weight": rng.standard_normal((70, 60)), "made.mask": np.ones((70, 60), np.uint8),
        "enc.weight": rng.standard_normal((70, 60)), "enc.causal": np.ones((60, 60), np.int32),
    }  # fmt: skip
    rows = opened(stored)
    assert all(rows[name][1] is not None for name in ("attn.relative_position_bias_table", "made.weight", "enc.weight"))
    assert not [name for name, (ref, _) in rows.items() if "quantized with" in ref.skipped]


def test_three_axes_alone_do_not_make_a_convolution() -> None:
    refs = laid({"logit_scale": (4, 1, 1), "expert_encoder.conv.weight": (60, 40, 3), "some.param": (3, 40, 50),
                 "blk.0.attn_k_b.weight": (4, 32, 16)})  # fmt: skip
    assert refs["logit_scale"].skipped
    assert refs["expert_encoder.conv.weight"].axes == "oiw"
    assert "not a known kind of layer" in refs["some.param"].skipped
    assert refs["blk.0.attn_k_b.weight"].axes == "eoi"


def test_a_fused_projection_that_does_not_fill_its_axis_is_left_whole() -> None:
    config = {
        "model_type": "gguf",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_size": 64,
    }
    whole = fused_parts("blk.0.attn_qkv.weight", (256, 64), config)
    assert whole is not None
    assert whole.parts == ()
    llava = {"model_type": "llava", "text_config": {"model_type": "phi3"}, "num_attention_heads": 8, "hidden_size": 64}
    fused = fused_parts("language_model.layers.0.mlp.gate_up_proj.weight", (100, 64), llava)
    assert fused is not None
    assert len(fused.parts) == 2


class Odd(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Groups, transposition and heads, which a state dict does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = torch.nn.Conv2d(32, 64, 3, groups=2)
        self.up = torch.nn.ConvTranspose2d(32, 64, 3, groups=2)
        self.plain_up = torch.nn.ConvTranspose1d(60, 70, 3)
        self.attention = torch.nn.MultiheadAttention(64, 4)
        self.register_buffer("positions", torch.randn(50, 60))


@pytest.mark.parametrize("conv", ["slices", "flat"])
def test_a_pickled_module_tells_what_its_state_dict_does_not(tmp_path: Path, conv: str) -> None:
    odd = Odd()
    torch.save(odd, tmp_path / "m.pt")
    file, live = (layerscope.analyze(target, conv=conv, min_evals=5) for target in (tmp_path / "m.pt", odd))
    for row in live.rows:
        if row.spectrum is not None and row.name != "attention.out_proj.weight":
            from_file = file.layers[row.name]
            assert (from_file.ref.groups, from_file.ref.axes, from_file.ref.heads) == (
                row.ref.groups,
                row.ref.axes,
                row.ref.heads,
            )
            np.testing.assert_array_equal(from_file.spectrum.evals, row.spectrum.evals)  # type: ignore[union-attr]


def test_a_live_buffer_is_not_a_weight() -> None:
    row = layerscope.describe(Odd()).layers["positions"]
    assert (row.ref.kind, row.skipped) == ("buffer", "a buffer: not learned")


def test_a_keras_layer_with_lora_is_what_it_computes_with(tmp_path: Path) -> None:
    keras = require("keras")
    layer = keras.layers.Dense(60)
    model = keras.Sequential([keras.Input((70,)), layer])
    layer.enable_lora(4)
    for variable in layer.trainable_variables:
        variable.assign(np.random.default_rng(0).standard_normal(variable.shape))
    report = layerscope.analyze(model)
    kernel = layer.kernel.detach().double().numpy()
    exact = np.linalg.svd(kernel, compute_uv=False)[0] ** 2
    row = next(row for row in report.rows if row.name.endswith("/kernel"))
    assert row.metrics["lambda_max"] == pytest.approx(exact, rel=1e-5)
    assert {r.ref.kind for r in report.rows if "lora" in r.name} == {"ingredient"}


def test_gates_of_a_convolutional_lstm_are_apart(rng: np.random.Generator) -> None:
    keras = require("keras")
    model = keras.Sequential([keras.Input((4, 8, 8, 3)), keras.layers.ConvLSTM2D(5, 3, name="cl")])
    names = [row.name for row in layerscope.describe(model).rows if row.ref.axes]
    assert [name.rpartition("[")[2] for name in names] == ["i]", "f]", "g]", "o]"] * 2


def test_both_directions_of_a_tflite_lstm_have_gates(tmp_path: Path, rng: np.random.Generator) -> None:
    require("tflite")
    from tests.nets import tflite_bytes

    inputs = [("", np.empty(0))] * 26
    for slot in (1, 2, 3, 4, 18, 19, 20, 21):
        inputs[slot] = (f"w{slot}", rng.standard_normal((60, 70)).astype(np.float32))
    for slot in (5, 6, 7, 8, 22, 23, 24, 25):
        inputs[slot] = (f"r{slot}", rng.standard_normal((60, 60)).astype(np.float32))
    (tmp_path / "m.tflite").write_bytes(tflite_bytes([("BIDIRECTIONAL_SEQUENCE_LSTM", inputs)]))
    hows = {ref.name: ref.how[-1] for ref in open_target(tmp_path / "m.tflite").layers()}
    assert [hows[f"w{slot}"] for slot in (1, 2, 3, 4, 18, 19, 20, 21)] == list("ifgoifgo")
    assert [hows[f"r{slot}"] for slot in (22, 23, 24, 25)] == list("ifgo")
