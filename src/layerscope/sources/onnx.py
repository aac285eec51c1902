"""ONNX models: constants with the axes that their operations give them, QDQ pairs dequantised, external data mapped."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import MissingExtra, Unreadable
from layerscope.sources import inside, spec
from layerscope.sources._files import Extent, is_file, size_of, whole
from layerscope.sources._header import MOST_AXES
from layerscope.sources._kernels import Variable, lay
from layerscope.sources._layout import (
    CONV,
    EMBEDDING,
    RECURRENT,
    TensorInfo,
    both,
    equal_parts,
    layers_of,
    matches,
    split_ref,
    why_not,
)
from layerscope.sources._onnx_graph import BIASES, NORMS, Constant, Graph, Use
from layerscope.sources._state_dict import Tensors
from layerscope.types import LayerRef

if TYPE_CHECKING:
    from layerscope.types import Array

PORTABLE = True
LARGEST = 2 << 30  # bytes of protobuf, its own limit
EXTERNAL = 1  # TensorProto.DataLocation
GATES = {"LSTM": ("lstm", "iofg"), "GRU": ("gru", "zrh"), "RNN": ("rnn", "")}  # ONNX's order; it calls g c
NAMELESS = re.compile(r"(onnx::|val_|const_|Constant_?)?[A-Za-z]*_?\d+$|.*const_fold|.*__\d+$")
INTEGER_SCALES = {"QLinearConv": (4, 5), "QLinearMatMul": (4, 5), "QGemm": (4, 5)}  # where scale and zero point are
WEIGHT_SLOT = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}
UNDECODED = (
    "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits", "MatMulIntegerToFloat", "MatMulBnb4",
    "GatherBlockQuantized", "QAttention", "DynamicQuantizeLSTM",
)  # fmt: skip
IN_PROJ = "in_proj_bias"
Shapes = Mapping[str, tuple[int, ...]]


def accepts(target: Any) -> bool:
    """A file called .onnx, or a protobuf that opens as ONNX's does: ir_version, then a producer or an opset."""
    if not is_file(target):
        return False
    if target.suffix == ".onnx":
        return True
    head = whole(target).read(0, 3)
    return len(head) == 3 and head[0] == 0x08 and head[1] < 0x20 and head[2] in (0x12, 0x3A, 0x42)


def open(target: Path) -> Tensors:
    """Read the graph; data that lie in other files stay there."""
    model = _model(target)
    graph = Graph(target, model.graph)
    tensors: dict[str, Callable[[], Array]] = {}
    refs: list[LayerRef] = []
    shapes = {name: tuple(constant.proto.dims) for name, constant in graph.constants.items()}
    for constant in graph.constants.values():
        if not constant.initializer and len(constant.proto.dims) < 2:
            continue  # numbers that the graph computes with
        rows, read = _rows(target, graph, constant, shapes)
        refs += rows
        tensors[constant.name] = read
    if not refs:
        raise Unreadable(f"{target}: an ONNX graph without constants")
    return Tensors(spec(target, "onnx", portable=True), refs, lambda name: tensors[name]())


def _model(target: Path) -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtra("an ONNX model", "onnx") from None
    from google.protobuf.message import DecodeError

    size = size_of(target)
    if not 0 < size < LARGEST:
        raise Unreadable(f"{target}: {size:,} bytes are no ONNX file")
    try:
        model = onnx.ModelProto.FromString(whole(target).read())
    except DecodeError as error:
        raise Unreadable(f"{target}: not ONNX, or truncated: {error}") from None
    if not model.HasField("graph"):
        raise Unreadable(f"{target}: not ONNX: it has no graph")
    return model


def _rows(target: Path, graph: Graph, constant: Constant, shapes: Shapes) -> tuple[list[LayerRef], Callable[[], Array]]:
    """The rows of one constant, and what reads it."""
    dtype, read = _stored(target, constant.proto)
    how, fault = "", ""
    if constant.dequantised is not None or (constant.use is not None and constant.use.op in INTEGER_SCALES):
        read, how, fault = _dequantised(target, graph, constant, dtype, read)
        dtype = dtype if fault else "float32"
    fused = _in_proj(graph, constant)
    ref = LayerRef(0, fused or _name(constant), shapes[constant.name], "", dtype, "", tensor=constant.name, how=how)
    rows, arrange = _layout(ref, constant, shapes, fault)
    if fused and len(rows) == 1 and rows[0].axes in ("oi", "io"):
        axis = rows[0].axes.index("o")
        rows = split_ref(replace(rows[0], kind="attention"), equal_parts("qkv", axis, ref.shape[axis]), "split q, k, v")
    return rows, lambda: arrange(read())


def _in_proj(graph: Graph, constant: Constant) -> str:
    """The name of the weight that belongs to an in_proj_bias: a projection to q, k and v together, or ""."""
    use = constant.use
    if use is None or use.op != "MatMul" or len(constant.proto.dims) != 2 or not use.outputs:
        return ""
    added = [name for after in graph.uses.get(use.outputs[0], [])[:8] if after.op == "Add" for name in after.inputs]
    bias = next((name for name in added if name.endswith(IN_PROJ) and name in graph.constants), "")
    return f"{bias.removesuffix('bias')}weight" if bias else ""


def _layout(
    ref: LayerRef, constant: Constant, shapes: Shapes, fault: str
) -> tuple[list[LayerRef], Callable[[Array], Array]]:
    use, same = constant.use, lambda tensor: tensor
    unfit = ("quantised", fault) if fault else _unfit(ref, use)
    if unfit:
        return [replace(ref, kind=unfit[0], skipped=unfit[1])], same
    rows = None if use is None else _by_operation(ref, use, constant.order)
    if rows is not None and rows[0].axes == "oi" and len(ref.shape) == 2 and matches(RECURRENT, ref.name):
        return _by_name(ref, shapes), same  # a cell written out: its gates are told by its names
    if rows is not None:
        return rows, same
    if use is not None and use.op == "Einsum" and use.slot == 1 and constant.order == tuple(range(len(ref.shape))):
        equation = use.attributes.get("equation", b"").decode("utf-8", "replace").replace(" ", "")
        found = lay(Variable(ref.tensor, ref.shape, ref.dtype, equation=equation))
        return [replace(row, name=ref.name, how=both(ref.how, row.how)) for row in found.refs], found.arrange
    words = ref.name.replace("/", ".")
    named = any(word in words for word in ("weight", "kernel", "_buffer"))
    if named or matches(EMBEDDING, words.rpartition(".")[2]):
        return _by_name(ref, shapes), same
    reason = f"an operand of {use.op}" if use is not None else "not used"
    return [replace(ref, kind="constant", skipped=reason)], same


def _by_name(ref: LayerRef, shapes: Shapes) -> list[LayerRef]:
    """Rows as PyTorch's naming has them."""
    info = TensorInfo(ref.name, ref.shape, ref.dtype, how=both(ref.how, "axes by its name"))
    return [replace(row, tensor=ref.tensor) for row in layers_of([info], beside=shapes)]


def _unfit(ref: LayerRef, use: Use | None) -> tuple[str, str] | None:
    if use is not None and use.op in UNDECODED:
        return "quantised", f"quantised with {use.op}, not decoded"
    unfit = why_not(ref.shape, ref.dtype)
    if unfit:
        return unfit
    if use is not None and use.slot in BIASES.get(use.op, ()):
        return "bias", f"{len(ref.shape)}-D" if len(ref.shape) == 1 else "a bias"
    if use is not None and use.op in NORMS and use.slot > 0:
        statistics = use.op == "BatchNormalization" and use.slot > 2
        return ("buffer", "statistics") if statistics else ("norm", f"{len(ref.shape)}-D")
    if math.prod(ref.shape) == max(ref.shape) and (use is None or use.op not in ("Gemm", "MatMul", "Conv")):
        return "vector", "1-D" if len(ref.shape) == 1 else "one row of numbers"
    return None


def _by_operation(ref: LayerRef, use: Use, order: tuple[int, ...]) -> list[LayerRef] | None:
    """Rows of what an operation multiplies by, axes in the order in which the file stores them."""
    slot = 1 if use.slot == WEIGHT_SLOT.get(use.op) else use.slot
    op, axes_there, kind, extra = use.op.removeprefix("QLinear").removeprefix("Fused"), "", "dense", {}
    size = len(ref.shape)
    if op in ("Gemm", "QGemm") and slot < 2 and size == 2:
        turned = bool(use.attributes.get("transB" if slot else "transA", 0))
        axes_there = "oi" if turned == bool(slot) else "io"
        op = f"Gemm, trans{'B' if slot else 'A'} = {int(turned)}"
    elif op == "MatMul" and slot < 2 and 2 <= size <= 3:
        axes_there = "e" * (size - 2) + ("io" if slot else "oi")
    elif op == "Conv" and slot == 1 and size in CONV:
        kind, axes_there = CONV[size]
        extra = _groups(use, ref.shape[order[0]])
    elif op == "ConvTranspose" and slot == 1 and size in CONV:
        kind, axes_there = CONV[size]
        extra = _groups(use, ref.shape[order[0]])
        if not extra:
            axes_there = "io" + axes_there[2:]
        else:
            extra = {**extra, "flipped": True}
    elif op == "Gather" and slot == 0 and size == 2:
        kind, axes_there = "embedding", "oi"
    elif op in GATES and slot in (1, 2) and size == 3 and order == (0, 1, 2):
        return _gates(ref, op)
    if not axes_there:
        return None
    stored = [""] * size
    for axis, letter in zip(order, axes_there, strict=True):
        stored[axis] = letter
    groups = extra.get("groups", 1)
    how = both(
        ref.how,
        op,
        f"{groups} groups" if groups > 1 else "",
        "transposed on the way" if order != tuple(sorted(order)) else "",
    )
    return [replace(ref, axes="".join(stored), kind=kind, how=how, **extra)]


def _groups(use: Use, size: int) -> dict[str, Any]:
    groups = use.attributes.get("group", 1)
    return {"groups": groups} if isinstance(groups, int) and 1 < groups <= size and size % groups == 0 else {}


def _gates(ref: LayerRef, op: str) -> list[LayerRef]:
    """(directions, gates · hidden, …): a row per direction and gate."""
    kind, labels = GATES[op]
    rows: list[LayerRef] = []
    for direction in range(min(ref.shape[0], 2)):
        name = ref.name + ("_reverse" if direction else "")
        row = replace(
            ref, name=name, shape=ref.shape[1:], axes="oi", kind=kind, expert=direction, how=both(ref.how, op)
        )
        if labels and ref.shape[1] % len(labels) == 0:
            rows += split_ref(row, equal_parts(labels, 0, ref.shape[1]), f"split gates {', '.join(labels)}")
        else:
            rows.append(row)
    return rows


def _name(constant: Constant) -> str:
    """The name of a constant; where an exporter numbered it, the name of the operation that uses it."""
    name, use = constant.name, constant.use
    if use is None or not use.name or not NAMELESS.fullmatch(name):
        return name
    words = use.name.strip("/").split("/")
    if words[-1].partition("_")[0] == use.op and len(words) > 1:
        words.pop()
    role = {"LSTM": ("", "weight_ih", "weight_hh"), "GRU": ("", "weight_ih", "weight_hh")}.get(use.op)
    last = role[use.slot] if role and use.slot < len(role) and role[use.slot] else "bias" if _is_bias(use) else "weight"
    return f"{'.'.join(words)}.{last}"


def _is_bias(use: Use) -> bool:
    return use.slot in BIASES.get(use.op, ()) or use.op in ("Add", "Sub")


def _stored(target: Path, proto: Any) -> tuple[str, Callable[[], Array]]:
    """(dtype, what reads it) of one tensor.

    :raises Unreadable: sizes that contradict each other.
    """
    from onnx import TensorProto, helper, numpy_helper

    name = f"{target}: {proto.name[:80]!r}"
    if len(proto.dims) > MOST_AXES or any(not 0 <= size < 1 << 62 for size in proto.dims):
        raise Unreadable(f"{name} has an impossible shape")
    if proto.data_type not in TensorProto.DataType.values() or proto.data_type == TensorProto.UNDEFINED:
        raise Unreadable(f"{name} has the unknown data type {proto.data_type}")
    if proto.data_type == TensorProto.STRING:
        return "string", lambda: np.empty(0)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))
    bits = 4 if "4" in dtype.name.rpartition("t")[2][:1] and dtype.itemsize == 1 else 8 * dtype.itemsize
    entries, shape = math.prod(proto.dims), tuple(proto.dims)
    wanted = -(-entries * bits // 8)
    if proto.data_location == EXTERNAL:
        extent, start = _external(target, proto, wanted)
        if bits == 4:
            return dtype.name, lambda: _with_data(proto, extent.read(start, wanted))
        return dtype.name, lambda: extent.array(dtype.newbyteorder("<") if dtype.kind in "fiu" else dtype, start, shape)
    if proto.HasField("raw_data"):
        held, fits = len(proto.raw_data), len(proto.raw_data) == wanted
    else:
        held, fits = proto.ByteSize(), entries <= 16 * (proto.ByteSize() + 1)
    if not fits:
        raise Unreadable(f"{name}: {held:,} bytes cannot hold shape {list(proto.dims)[:8]} of {dtype.name}")
    return dtype.name, lambda: np.asarray(numpy_helper.to_array(proto))


def _with_data(proto: Any, raw: bytes) -> Array:
    from onnx import TensorProto, numpy_helper

    made = TensorProto(data_type=proto.data_type, dims=proto.dims, raw_data=raw)
    return np.asarray(numpy_helper.to_array(made))


def _external(target: Path, proto: Any, wanted: int) -> tuple[Extent, int]:
    """Where the data of a tensor lie in another file of the model's folder.

    :raises Refused: the path leads out of the folder.
    :raises Unreadable: no such file, or sizes that contradict each other.
    """
    entries = {entry.key: entry.value for entry in proto.external_data}
    name = f"{target}: {proto.name[:80]!r}"
    file = inside(target.parent, entries.get("location", ""), below=True)
    if not file.is_file():
        raise Unreadable(f"{name}: its data file {file.name} is missing")
    try:
        start, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
    except ValueError:
        raise Unreadable(f"{name}: offset or length is no number") from None
    if start < 0 or length != wanted or start + length > size_of(file):
        raise Unreadable(f"{name}: {length:,} bytes at {start:,} of {file.name} are not what its shape says")
    return whole(file), start


def _dequantised(
    target: Path, graph: Graph, constant: Constant, dtype: str, read: Callable[[], Array]
) -> tuple[Callable[[], Array], str, str]:
    """(what reads it, how, why not) of integers with scales: (q − zero point) · scale."""
    use = constant.dequantised or constant.use
    assert use is not None
    slots = INTEGER_SCALES.get(use.op, (1, 2))
    names = [use.inputs[slot] if slot < len(use.inputs) else "" for slot in slots]
    scale = graph.value(names[0])
    zero = graph.value(names[1]) if names[1] else None
    if scale is None or (names[1] and zero is None):
        return read, "", f"quantised with {use.op}, its scales are computed in the graph"
    _, read_scale = _stored(target, scale)
    read_zero = _stored(target, zero)[1] if zero is not None else None
    axis = int(use.attributes.get("axis", 1 if use.op == "DequantizeLinear" else 0))
    if use.op == "QLinearMatMul":
        axis = -1
    block = int(use.attributes.get("block_size", 0))

    def decoded() -> Array:
        codes = np.asarray(read()).astype(np.float32)
        if read_zero is not None:
            codes -= _spread(read_zero().astype(np.float32), codes.shape, axis, block)
        return codes * _spread(read_scale().astype(np.float32), codes.shape, axis, block)

    return decoded, f"dequantised from {dtype}", ""


def _spread(values: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Scales in a shape that multiplies a tensor: one of all, one per index of an axis, or one per block of it."""
    if values.size == 1:
        return values.reshape(())
    if block:
        return np.repeat(values, block, axis=axis)[tuple(slice(0, n) for n in shape)]
    if values.ndim != 1 or values.size != shape[axis]:
        raise ValueError(f"{values.shape} scales for a tensor of {shape}")
    form = [1] * len(shape)
    form[axis] = values.size
    return values.reshape(form)
