"""ONNX models: constants, with axes derived from the operations that use them.

QDQ pairs are dequantized; external data files are memory-mapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import MissingExtra, Unreadable
from layerscope.records.layers import LayerRef
from layerscope.sources.layouts.onnx_operations import Shapes, constant_rows
from layerscope.sources.quantization.onnx_codes import (
    BLOCKWISE,
    CODE_SLOTS,
    blockwise_matrix,
    decode_blockwise,
    dequantization_of,
)
from layerscope.sources.readers.onnx_graph import Constant, Graph, inline_functions
from layerscope.sources.readers.state_dict import Tensors
from layerscope.sources.storage.dtypes import MAX_AXES
from layerscope.sources.storage.extents import Extent, whole_file
from layerscope.sources.storage.paths import is_file, path_inside, size_of
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
MAX_PROTOBUF_BYTES = 2 << 30  # the limit of protobuf itself
EXTERNAL_LOCATION = 1  # TensorProto.DataLocation


def accepts(target: Any) -> bool:
    """Accept a .onnx file, or a protobuf that starts as ONNX does: ir_version, then a producer or an opset."""
    if not is_file(target):
        return False
    if target.suffix == ".onnx":
        return True
    head = whole_file(target).read(0, 3)
    return len(head) == 3 and head[0] == 0x08 and head[1] < 0x20 and head[2] in (0x12, 0x3A, 0x42)


def open(target: Path) -> Tensors:
    """Read the graph; data in external files are not read yet."""
    model = inline_functions(target, _parse_model(target))
    graph = Graph(target, model.graph)
    tensors: dict[str, Callable[[], Array]] = {}
    refs: list[LayerRef] = []
    shapes = {name: tuple(constant.proto.dims) for name, constant in graph.constants.items()}
    for constant in graph.constants.values():
        if not constant.initializer and len(constant.proto.dims) < 2:
            continue  # a scalar or vector that the graph computes with, e.g. a shape
        rows, read = _lay_out_constant(target, graph, constant, shapes)
        refs += rows
        tensors[constant.name] = read
    if not refs:
        raise Unreadable(f"{target}: the ONNX graph contains no weights; export the model with its parameters")
    return Tensors(make_spec(target, "onnx", portable=True), refs, lambda name: tensors[name]())


def _parse_model(target: Path) -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtra("an ONNX model", "onnx") from None
    from google.protobuf.message import DecodeError

    size = size_of(target)
    if not 0 < size < MAX_PROTOBUF_BYTES:
        raise Unreadable(
            f"{target}: found {size:,} bytes, but an ONNX file has at least 1 byte and less than 2 GiB; "
            "keep larger weights in external data files"
        )
    try:
        model = onnx.ModelProto.FromString(whole_file(target).read())
    except DecodeError as error:
        raise Unreadable(f"{target}: not an ONNX model, or truncated: {error}; export or download it again") from None
    if not model.HasField("graph"):
        raise Unreadable(f"{target}: not an ONNX model: it contains no graph")
    return model


def _lay_out_constant(
    target: Path, graph: Graph, constant: Constant, shapes: Shapes
) -> tuple[list[LayerRef], Callable[[], Array]]:
    """The rows of one constant, and the function that reads it."""
    dtype, read = _prepare_tensor(target, constant.proto)
    arrival, use, shape = constant.arrival, constant.use, shapes[constant.name]
    how, fault, read_stored = "", "", read

    def read_proto(proto: Any) -> Array:
        return np.asarray(_prepare_tensor(target, proto)[1]())

    if arrival is not None and use is not None and (arrival.dequantized or use.slot in CODE_SLOTS.get(use.op, ())):
        dequantization = dequantization_of(graph, arrival)
        fault = dequantization.fault
        if not fault:
            read, how, dtype = dequantization.prepare(read, read_proto), f"dequantized from {dtype}", "float32"
    elif use is not None and use.op == BLOCKWISE and use.slot == 1:
        shape, fault = blockwise_matrix(graph, use, shape)
        if not fault:
            dtype, how = "float32", f"decoded from {BLOCKWISE}, {int(use.attributes.get('bits', 4))} bits"

            def read() -> Array:
                return decode_blockwise(graph, use, read_stored, read_proto)

    ref = LayerRef(0, constant.name, shape, "", dtype, "", tensor=constant.name, how=how)
    rows, arrange = constant_rows(graph, constant, ref, shapes, fault)
    return rows, lambda: arrange(read())


def _prepare_tensor(target: Path, proto: Any) -> tuple[str, Callable[[], Array]]:
    """The dtype of one tensor, and the function that reads it.

    :raises Unreadable: the sizes contradict each other.
    """
    from onnx import TensorProto, helper, numpy_helper

    name = f"{target}: {proto.name[:80]!r}"
    if len(proto.dims) > MAX_AXES or any(not 0 <= size < 1 << 62 for size in proto.dims):
        raise Unreadable(f"{name} has an invalid shape; expected at most {MAX_AXES} axes of non-negative size")
    if proto.data_type not in TensorProto.DataType.values() or proto.data_type == TensorProto.UNDEFINED:
        raise Unreadable(
            f"{name} has the data type {proto.data_type}, which the installed onnx package does not know; "
            "a newer onnx may read it"
        )
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
        raise Unreadable(
            f"{name}: {stored_bytes:,} bytes cannot hold shape {list(proto.dims)[:8]} of dtype {dtype.name}; "
            "export or download the model again"
        )
    return dtype.name, lambda: np.asarray(numpy_helper.to_array(proto))


def _array_from_raw(proto: Any, raw: bytes) -> Array:
    from onnx import TensorProto, numpy_helper

    tensor = TensorProto(data_type=proto.data_type, dims=proto.dims, raw_data=raw)
    return np.asarray(numpy_helper.to_array(tensor))


def _locate_external_data(target: Path, proto: Any, expected_bytes: int) -> tuple[Extent, int]:
    """Locate a tensor's data in another file of the model's folder.

    :raises Refused: the path leads out of the folder.
    :raises Unreadable: the file is missing, or the sizes contradict each other.
    """
    entries = {entry.key: entry.value for entry in proto.external_data}
    name = f"{target}: {proto.name[:80]!r}"
    file = path_inside(target.parent, entries.get("location", ""), below=True)
    if not file.is_file():
        raise Unreadable(f"{name}: its data file {file.name} is missing; copy it with the model")
    try:
        start, length = int(entries.get("offset", 0)), int(entries.get("length", expected_bytes))
    except ValueError:
        raise Unreadable(
            f"{name}: the offset or length of its external data is not a number; export the model again"
        ) from None
    if start < 0 or length != expected_bytes or start + length > size_of(file):
        raise Unreadable(
            f"{name}: its shape needs {expected_bytes:,} bytes, but the model states {length:,} bytes from byte "
            f"{start:,} of {file.name}, which has {size_of(file):,}; export or download the model again"
        )
    return whole_file(file), start
