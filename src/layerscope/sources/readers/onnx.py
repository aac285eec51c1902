"""ONNX models: constants with the axes that their operations give them, QDQ pairs dequantised, external data mapped."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import MissingExtra, Unreadable
from layerscope.records.layers import LayerRef
from layerscope.sources.layouts.onnx_operations import CODE_SLOTS, Shapes, constant_rows
from layerscope.sources.readers.onnx_graph import Constant, Graph
from layerscope.sources.readers.state_dict import Tensors
from layerscope.sources.storage.dtypes import MAX_AXES
from layerscope.sources.storage.extents import Extent, whole_file
from layerscope.sources.storage.paths import is_file, path_inside, size_of
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
MAX_PROTOBUF_BYTES = 2 << 30  # bytes of protobuf, its own limit
EXTERNAL_LOCATION = 1  # TensorProto.DataLocation
NO_INPUT = (0, "")


def accepts(target: Any) -> bool:
    """A file called .onnx, or a protobuf that opens as ONNX's does: ir_version, then a producer or an opset."""
    if not is_file(target):
        return False
    if target.suffix == ".onnx":
        return True
    head = whole_file(target).read(0, 3)
    return len(head) == 3 and head[0] == 0x08 and head[1] < 0x20 and head[2] in (0x12, 0x3A, 0x42)


def open(target: Path) -> Tensors:
    """Read the graph; data that lie in other files stay there."""
    model = _parse_model(target)
    graph = Graph(target, model.graph)
    tensors: dict[str, Callable[[], Array]] = {}
    refs: list[LayerRef] = []
    shapes = {name: tuple(constant.proto.dims) for name, constant in graph.constants.items()}
    for constant in graph.constants.values():
        if not constant.initializer and len(constant.proto.dims) < 2:
            continue  # numbers that the graph computes with
        rows, read = _lay_out_constant(target, graph, constant, shapes)
        refs += rows
        tensors[constant.name] = read
    if not refs:
        raise Unreadable(f"{target}: an ONNX graph without constants")
    return Tensors(make_spec(target, "onnx", portable=True), refs, lambda name: tensors[name]())


def _parse_model(target: Path) -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtra("an ONNX model", "onnx") from None
    from google.protobuf.message import DecodeError

    size = size_of(target)
    if not 0 < size < MAX_PROTOBUF_BYTES:
        raise Unreadable(f"{target}: {size:,} bytes are no ONNX file")
    try:
        model = onnx.ModelProto.FromString(whole_file(target).read())
    except DecodeError as error:
        raise Unreadable(f"{target}: not ONNX, or truncated: {error}") from None
    if not model.HasField("graph"):
        raise Unreadable(f"{target}: not ONNX: it has no graph")
    return model


def _lay_out_constant(
    target: Path, graph: Graph, constant: Constant, shapes: Shapes
) -> tuple[list[LayerRef], Callable[[], Array]]:
    """The rows of one constant, and what reads it."""
    dtype, read = _prepare_tensor(target, constant.proto)
    how, fault, use = "", "", constant.use
    is_quantized_operand = use is not None and use.slot in CODE_SLOTS.get(use.op, ())
    if is_quantized_operand or (constant.arrival is not None and constant.arrival.dequantised is not None):
        read, how, fault = _prepare_dequantization(target, graph, constant, dtype, read)
        dtype = dtype if fault else "float32"
    ref = LayerRef(0, constant.name, shapes[constant.name], "", dtype, "", tensor=constant.name, how=how)
    rows, arrange = constant_rows(graph, constant, ref, shapes, fault)
    return rows, lambda: arrange(read())


def _prepare_tensor(target: Path, proto: Any) -> tuple[str, Callable[[], Array]]:
    """(dtype, what reads it) of one tensor.

    :raises Unreadable: sizes that contradict each other.
    """
    from onnx import TensorProto, helper, numpy_helper

    name = f"{target}: {proto.name[:80]!r}"
    if len(proto.dims) > MAX_AXES or any(not 0 <= size < 1 << 62 for size in proto.dims):
        raise Unreadable(f"{name} has an impossible shape")
    if proto.data_type not in TensorProto.DataType.values() or proto.data_type == TensorProto.UNDEFINED:
        raise Unreadable(f"{name} has the unknown data type {proto.data_type}")
    if proto.data_type == TensorProto.STRING:
        return "string", lambda: np.empty(0)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))
    bits = 4 if "4" in dtype.name.rpartition("t")[2][:1] and dtype.itemsize == 1 else 8 * dtype.itemsize
    entries, shape = math.prod(proto.dims), tuple(proto.dims)
    expected_bytes = -(-entries * bits // 8)
    if proto.data_location == EXTERNAL_LOCATION:
        extent, start = _locate_external_data(target, proto, expected_bytes)
        if bits == 4:
            return dtype.name, lambda: _array_from_raw(proto, extent.read(start, expected_bytes))
        return dtype.name, lambda: extent.array(dtype.newbyteorder("<") if dtype.kind in "fiu" else dtype, start, shape)
    if proto.HasField("raw_data"):
        stored_bytes, fits = len(proto.raw_data), len(proto.raw_data) == expected_bytes
    else:
        stored_bytes, fits = proto.ByteSize(), entries <= 16 * (proto.ByteSize() + 1)
    if not fits:
        raise Unreadable(f"{name}: {stored_bytes:,} bytes cannot hold shape {list(proto.dims)[:8]} of {dtype.name}")
    return dtype.name, lambda: np.asarray(numpy_helper.to_array(proto))


def _array_from_raw(proto: Any, raw: bytes) -> Array:
    from onnx import TensorProto, numpy_helper

    tensor = TensorProto(data_type=proto.data_type, dims=proto.dims, raw_data=raw)
    return np.asarray(numpy_helper.to_array(tensor))


def _locate_external_data(target: Path, proto: Any, expected_bytes: int) -> tuple[Extent, int]:
    """Where the data of a tensor lie in another file of the model's folder.

    :raises Refused: the path leads out of the folder.
    :raises Unreadable: no such file, or sizes that contradict each other.
    """
    entries = {entry.key: entry.value for entry in proto.external_data}
    name = f"{target}: {proto.name[:80]!r}"
    file = path_inside(target.parent, entries.get("location", ""), below=True)
    if not file.is_file():
        raise Unreadable(f"{name}: its data file {file.name} is missing")
    try:
        start, length = int(entries.get("offset", 0)), int(entries.get("length", expected_bytes))
    except ValueError:
        raise Unreadable(f"{name}: offset or length is no number") from None
    if start < 0 or length != expected_bytes or start + length > size_of(file):
        raise Unreadable(f"{name}: {length:,} bytes at {start:,} of {file.name} are not what its shape says")
    return whole_file(file), start


def _prepare_dequantization(
    target: Path, graph: Graph, constant: Constant, dtype: str, read: Callable[[], Array]
) -> tuple[Callable[[], Array], str, str]:
    """(what reads it, how, why not) of integers with scales: (q − zero point) · scale."""
    arrival = constant.arrival
    assert arrival is not None
    use, order = arrival.dequantised or arrival.use, arrival.order_then or arrival.order
    slots = (1, 2) if arrival.dequantised or use.slot == 0 else (use.slot + 1, use.slot + 2)
    keys = [use.inputs[slot] if slot < len(use.inputs) else NO_INPUT for slot in slots]
    scale, zero = graph.value(keys[0]), graph.value(keys[1])
    if scale is None or (keys[1][1] and zero is None):
        return read, "", f"quantised with {use.op}, its scales are computed in the graph"
    _, read_scale = _prepare_tensor(target, scale)
    read_zero = _prepare_tensor(target, zero)[1] if zero is not None else None
    axis_by_operation = {
        "QLinearConv": 0,
        "QLinearMatMul": -1 if use.slot else -2,
        "QGemm": 0 if use.attributes.get("transB") else 1,
    }
    axis = int(use.attributes.get("axis", 1)) if arrival.dequantised else axis_by_operation[use.op]
    if order and -len(order) <= axis < len(order):
        axis = order[axis]  # the axis that is stored at that place
    block = int(use.attributes.get("block_size", 0)) if arrival.dequantised else 0

    def dequantize() -> Array:
        codes = np.asarray(read()).astype(np.float32)
        if read_zero is not None:
            codes -= _broadcast_scales(read_zero().astype(np.float32), codes.shape, axis, block)
        return codes * _broadcast_scales(read_scale().astype(np.float32), codes.shape, axis, block)

    return dequantize, f"dequantised from {dtype}", ""


def _broadcast_scales(values: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Scales in a shape that multiplies a tensor: one of all, one per index of an axis, or one per block of it."""
    if values.size == 1:
        return values.reshape(())
    if block:
        return np.repeat(values, block, axis=axis)[tuple(slice(0, n) for n in shape)]
    if values.ndim != 1 or values.size != shape[axis]:
        raise ValueError(f"{values.shape} scales for a tensor of {shape}")
    broadcast_shape = [1] * len(shape)
    broadcast_shape[axis] = values.size
    return values.reshape(broadcast_shape)
