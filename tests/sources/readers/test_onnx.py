"""ONNX graphs: what multiplies says what the axes are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Refused, TargetError, Unreadable
from layerscope.records.layers import LayerRef
from layerscope.sources.opening import open_target
from tests.requirements import require

onnx = require("onnx")
make_node, make_tensor = onnx.helper.make_node, onnx.numpy_helper.from_array


def saved(folder: Path, nodes: list[Any], constants: dict[str, np.ndarray]) -> Path:
    tensors = [make_tensor(array, name) for name, array in constants.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], tensors))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def rows(path: Path) -> dict[str, LayerRef]:
    return {ref.name: ref for ref in open_target(path).layers()}


@pytest.mark.parametrize(
    ("node", "shape", "axes"),
    [
        (make_node("Gemm", ["x", "w"], ["y"], transB=1), (80, 60), "oi"),
        (make_node("Gemm", ["x", "w"], ["y"]), (60, 80), "io"),
        (make_node("Gemm", ["w", "x"], ["y"]), (80, 60), "oi"),
        (make_node("Gemm", ["w", "x"], ["y"], transA=1), (60, 80), "io"),
        (make_node("MatMul", ["x", "w"], ["y"]), (60, 80), "io"),
        (make_node("MatMul", ["w", "x"], ["y"]), (80, 60), "oi"),
        (make_node("MatMul", ["x", "w"], ["y"]), (3, 60, 80), "eio"),
        (make_node("Conv", ["x", "w"], ["y"]), (80, 60, 3), "oiw"),
        (make_node("ConvTranspose", ["x", "w"], ["y"]), (60, 80, 3, 3), "iohw"),
        (make_node("Gather", ["w", "x"], ["y"]), (300, 60), "oi"),
        (make_node("Einsum", ["x", "w"], ["y"], equation="bi,oi->bo"), (80, 60), "io"),
    ],
)
def test_axes_come_from_the_operation(
    tmp_path: Path, rng: np.random.Generator, node: Any, shape: tuple[int, ...], axes: str
) -> None:
    weight = rng.standard_normal(shape).astype(np.float32)
    path = saved(tmp_path, [node], {"w": weight})
    ref = rows(path)["w"]
    assert ref.axes == axes
    if node.op_type == "Einsum":
        np.testing.assert_array_equal(open_target(path).read(ref), weight.T)
    else:
        np.testing.assert_array_equal(open_target(path).read(ref), weight)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_groups_equal_the_live_layer(tmp_path: Path, op: str) -> None:
    torch = require("torch")
    live = (torch.nn.Conv2d if op == "Conv" else torch.nn.ConvTranspose2d)(32, 64, 3, groups=4)
    path = saved(tmp_path, [make_node(op, ["x", "w"], ["y"], group=4)], {"w": live.weight.detach().numpy()})
    ours, theirs = layerscope.analyze(path, min_evals=5), layerscope.analyze(live, min_evals=5)
    np.testing.assert_allclose(ours.spectra["w"], theirs.spectra["weight"], rtol=1e-10)


def test_a_weight_is_followed_through_casts_and_transpositions(tmp_path: Path, rng: np.random.Generator) -> None:
    weight = rng.standard_normal((80, 16, 5)).astype(np.float16)
    nodes = [
        make_node("Cast", ["w"], ["a"], to=1),
        make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        make_node("Conv", ["x", "b"], ["y"]),
    ]
    ref = rows(saved(tmp_path, nodes, {"w": weight}))["w"]
    assert (ref.axes, ref.dtype) == ("owi", "float16")
    assert "transposed before use" in ref.how


def test_qdq_pairs_are_dequantised_per_tensor_per_axis_and_per_block(tmp_path: Path, rng: np.random.Generator) -> None:
    codes = rng.integers(-127, 128, (64, 80)).astype(np.int8)
    zeros = rng.integers(-5, 5, 80).astype(np.int8)
    cases = {
        "tensor": (np.float32(0.5), np.int8(3), {}),
        "axis": (rng.random(80).astype(np.float32), zeros, {"axis": 1}),
        "block": (rng.random((4, 80)).astype(np.float32), None, {"axis": 0, "block_size": 16}),
    }
    for scale, zero, attributes in cases.values():
        constants = {"w": codes, "s": np.asarray(scale)} | ({} if zero is None else {"z": np.asarray(zero)})
        inputs = ["w", "s"] + ([] if zero is None else ["z"])
        nodes = [make_node("DequantizeLinear", inputs, ["f"], **attributes), make_node("MatMul", ["x", "f"], ["y"])]
        path = saved(tmp_path, nodes, constants)
        ref = rows(path)["w"]
        spread = np.repeat(scale, 16, axis=0) if attributes.get("block_size") else scale
        expected = (codes.astype(np.float32) - (0 if zero is None else zero.astype(np.float32))) * spread
        np.testing.assert_allclose(open_target(path).read(ref), expected, rtol=1e-6)
        assert ref.how == "dequantized from int8, MatMul"
        assert ref.dtype == "float32"


def test_int4_codes_are_dequantised(tmp_path: Path, rng: np.random.Generator) -> None:
    import ml_dtypes

    codes = rng.integers(-8, 8, (64, 60)).astype(ml_dtypes.int4)
    nodes = [make_node("DequantizeLinear", ["w", "s"], ["f"]), make_node("Gemm", ["x", "f"], ["y"], transB=1)]
    path = saved(tmp_path, nodes, {"w": codes, "s": np.float32(0.25)})
    np.testing.assert_array_equal(open_target(path).read(rows(path)["w"]), codes.astype(np.float32) / 4)


def test_qlinear_operators_carry_their_own_scales(tmp_path: Path, rng: np.random.Generator) -> None:
    codes, scales = rng.integers(-127, 128, (16, 8, 3, 3)).astype(np.int8), rng.random(16).astype(np.float32)
    inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    constants = {"w": codes, "ws": scales, "wz": np.zeros(16, np.int8)}
    path = saved(tmp_path, [make_node("QLinearConv", inputs, ["y"])], constants)
    expected = codes * scales[:, None, None, None]
    np.testing.assert_allclose(open_target(path).read(rows(path)["w"]), expected, rtol=1e-6)
    assert rows(path)["w"].axes == "oihw"


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("QAttention", "quantized with QAttention, not decoded"),
        ("MatMulInteger", "quantized with MatMulInteger, but its scales are computed in the graph"),
        ("MatMulNBits", "quantized with MatMulNBits, but its codes of shape (80, 60) do not fit its attributes"),
    ],
)
def test_what_is_not_decoded_is_refused_by_name(tmp_path: Path, op: str, reason: str) -> None:
    path = saved(tmp_path, [make_node(op, ["x", "w"], ["y"])], {"w": np.ones((80, 60), np.uint8)})
    assert rows(path)["w"].skipped == reason


def dynamic(op: str, scale_first: bool, **attributes: Any) -> list[Any]:
    """What ONNX Runtime's quantize_dynamic writes in place of one MatMul or Conv."""
    factors = ["w_scale", "x_scale"] if scale_first else ["x_scale", "w_scale"]
    return [
        make_node("DynamicQuantizeLinear", ["x"], ["x_q", "x_scale", "x_zero"]),
        make_node("Mul", factors, ["scales"]),
        make_node(op, ["x_q", "w_quantized", "x_zero", "w_zero"], ["y_q"], **attributes),
        make_node("Cast", ["y_q"], ["y_cast"], to=1),
        make_node("Mul", ["y_cast", "scales"][:: -1 if scale_first else 1], ["y"]),
    ]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("op", ["MatMulInteger", "ConvInteger"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_dynamic_quantization_of_onnx_runtime(
    tmp_path: Path, rng: np.random.Generator, op: str, dtype: str, per_channel: bool
) -> None:
    shape, axis = ((64, 60), 1) if op == "MatMulInteger" else ((60, 8, 3, 3), 0)
    sizes: tuple[int, ...] = (60,) if per_channel else ()
    codes = rng.integers(-127 if dtype == "int8" else 0, 127, shape).astype(dtype)
    scale, zero = rng.random(sizes).astype(np.float32), rng.integers(0, 9, sizes).astype(dtype)
    stored_scale = scale.reshape(1, 60, 1, 1) if per_channel and op == "ConvInteger" else scale
    constants = {"w_quantized": codes, "w_scale": stored_scale, "w_zero": zero}
    path = saved(tmp_path, dynamic(op, per_channel), constants)
    wide = [part.reshape([-1 if i == axis else 1 for i in range(len(shape))]) for part in (scale, zero)]
    expected = (codes.astype(np.float64) - wide[1]) * wide[0]
    ref = rows(path)["w"]
    assert (ref.axes, ref.shape) == ("io" if axis else "oihw", shape)
    np.testing.assert_allclose(np.asarray(open_target(path).read(ref)), expected, rtol=1e-5, atol=1e-6)
    assert [row.name for row in layerscope.analyze(path, min_evals=5).rows if not row.skipped] == ["w"]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero_points", ["none", "packed", "float"])
@pytest.mark.parametrize("columns", [64, 50])
def test_block_wise_quantization(
    tmp_path: Path, rng: np.random.Generator, bits: int, zero_points: str, columns: int
) -> None:
    outputs, block = 60, 16
    blocks = -(-columns // block)
    codes = rng.integers(0, 2**bits, (outputs, blocks, block))
    scales = rng.random((outputs, blocks)).astype(np.float32)
    zeros = rng.integers(0, 2**bits, (outputs, blocks))

    def pack(values: np.ndarray) -> np.ndarray:
        per_byte = 8 // bits
        padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % per_byte)])
        groups = padded.reshape(*padded.shape[:-1], -1, per_byte)
        packed = sum(groups[..., i] << (bits * i) for i in range(per_byte))
        return np.asarray(packed).astype(np.uint8)

    constants = {"w": pack(codes), "s": scales.reshape(-1)}
    if zero_points == "packed":
        constants["z"] = pack(zeros)
    elif zero_points == "float":
        constants["z"] = zeros.astype(np.float32)
    else:
        zeros = np.full_like(zeros, 2 ** (bits - 1))
    inputs = ["x", *constants]
    node = make_node(
        "MatMulNBits", inputs, ["y"], domain="com.microsoft", K=columns, N=outputs, bits=bits, block_size=16
    )
    path = saved(tmp_path, [node], constants)
    expected = ((codes - zeros[..., None]) * scales[..., None]).reshape(outputs, -1)[:, :columns]
    ref = rows(path)["w"]
    assert (ref.axes, ref.shape) == ("oi", (outputs, columns))
    np.testing.assert_allclose(np.asarray(open_target(path).read(ref)), expected, rtol=1e-5)
    assert all(row.skipped for name, row in rows(path).items() if name != "w")


def with_functions(folder: Path, calls: dict[str, list[Any]], constants: dict[str, np.ndarray]) -> Path:
    opset = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
    functions = [
        onnx.helper.make_function("own", name, ["a", "b"], ["c"], nodes, opset) for name, nodes in calls.items()
    ]
    tensors = [make_tensor(array, name) for name, array in constants.items()]
    node = make_node(next(iter(calls)), ["x", "w"], ["y"], domain="own")
    graph = onnx.helper.make_graph([node], "g", [], [], tensors)
    model = onnx.helper.make_model(graph, functions=functions, opset_imports=opset)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def test_functions_of_the_model_show_how_weights_are_used(tmp_path: Path, rng: np.random.Generator) -> None:
    weight = rng.standard_normal((80, 60)).astype(np.float32)
    inner = [make_node("Transpose", ["b"], ["t"], perm=[1, 0]), make_node("MatMul", ["a", "t"], ["c"])]
    calls = {"Linear": [make_node("Inner", ["a", "b"], ["c"], domain="own")], "Inner": inner}
    path = with_functions(tmp_path, calls, {"w": weight})
    ref = rows(path)["w"]
    assert ref.axes == "oi"
    np.testing.assert_array_equal(np.asarray(open_target(path).read(ref)), weight)


@pytest.mark.parametrize("form", ["circle", "bomb"])
def test_functions_that_never_end_are_refused(tmp_path: Path, form: str) -> None:
    if form == "circle":
        calls = {"A": [make_node("B", ["a", "b"], ["c"], domain="own")]}
        calls["B"] = [make_node("A", ["a", "b"], ["c"], domain="own")]
    else:
        names = [f"F{i}" for i in range(14)]
        twice = [[make_node(name, ["a", "b"], [f"c{k}"], domain="own") for k in range(20)] for name in names[1:]]
        calls = dict(zip(names, [*twice, [make_node("MatMul", ["a", "b"], ["c"])]], strict=True))
    with pytest.raises(Unreadable, match="function"):
        rows(with_functions(tmp_path, calls, {"w": np.ones((60, 50), np.float32)}))


def test_scales_that_the_graph_computes_are_not_guessed(tmp_path: Path) -> None:
    nodes = [make_node("DequantizeLinear", ["w", "computed"], ["f"]), make_node("MatMul", ["x", "f"], ["y"])]
    path = saved(tmp_path, nodes, {"w": np.ones((80, 60), np.int8)})
    assert "scales are computed" in rows(path)["w"].skipped


def test_constants_of_other_operations_are_no_weights(tmp_path: Path) -> None:
    path = saved(tmp_path, [make_node("Add", ["x", "mask"], ["y"])], {"mask": np.ones((80, 60), np.float32)})
    assert rows(path)["mask"].skipped == "an operand of Add"


def test_numbered_constants_are_named_after_their_operation(tmp_path: Path) -> None:
    nodes = [make_node("MatMul", ["x", "onnx::MatMul_12"], ["y"], name="/encoder/fc1/MatMul")]
    path = saved(tmp_path, nodes, {"onnx::MatMul_12": np.ones((80, 60), np.float32)})
    assert list(rows(path)) == ["encoder.fc1.weight"]


def external(folder: Path, location: str, *, offset: int = 0, length: int | None = None) -> Path:
    tensor = onnx.TensorProto(name="w", dims=[80, 60], data_type=1, data_location=1)
    entries = {"location": location, "offset": offset, "length": 19200 if length is None else length}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    graph = onnx.helper.make_graph([make_node("MatMul", ["x", "w"], ["y"])], "g", [], [], [tensor])
    (folder / "m.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return folder / "m.onnx"


def test_external_data_are_read_where_they_lie(tmp_path: Path, rng: np.random.Generator) -> None:
    weight = rng.standard_normal((80, 60)).astype(np.float32)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(16) + weight.tobytes())
    path = external(tmp_path, "sub/w.bin", offset=16)
    np.testing.assert_array_equal(open_target(path).read(rows(path)["w"]), weight)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "sub/../../w.bin", "..\\w.bin", "", ".", "a\0b"])
def test_external_data_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(19200))
    with pytest.raises(Refused):
        open_target(external(folder, location))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(19200))
    (folder / "w.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(Refused, match="outside its folder"):
        open_target(external(folder, "w.bin"))


@pytest.mark.parametrize(("offset", "length"), [(0, 19196), (4, 19200), (-4, 19200), (1 << 62, 19200), (0, 1 << 62)])
def test_external_data_that_do_not_fit_are_unreadable(tmp_path: Path, offset: int, length: int) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(19200))
    with pytest.raises(Unreadable):
        open_target(external(tmp_path, "w.bin", offset=offset, length=length))


def test_missing_external_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"gone\.bin is missing"):
        open_target(external(tmp_path, "gone.bin"))


def test_shapes_that_lie_are_unreadable(tmp_path: Path) -> None:
    for dims in ([1 << 40, 1 << 20], [80, -1], [1] * 100):
        tensor = onnx.TensorProto(name="w", dims=dims, data_type=1, raw_data=bytes(19200))
        graph = onnx.helper.make_graph([make_node("MatMul", ["x", "w"], ["y"])], "g", [], [], [tensor])
        (tmp_path / "m.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
        with pytest.raises(Unreadable):
            open_target(tmp_path / "m.onnx")


def test_graphs_in_graphs_end(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "g", [], [], [])
    for _ in range(20):
        node = make_node("If", ["c"], ["y"], then_branch=graph, else_branch=onnx.helper.make_graph([], "e", [], []))
        graph = onnx.helper.make_graph([node], "g", [], [])
    (tmp_path / "m.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(TargetError):
        open_target(tmp_path / "m.onnx")
