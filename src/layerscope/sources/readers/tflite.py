"""TFLite models: constants, with axes derived from the operators that use them, dequantized with their scales."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import LayerscopeError, MissingExtra, Unreadable
from layerscope.records.layers import LayerRef
from layerscope.sources.layouts.onnx_operations import last_joined_name
from layerscope.sources.layouts.torch_names import join_descriptions, skip_reason
from layerscope.sources.readers.state_dict import Tensors
from layerscope.sources.storage.dtypes import MAX_AXES, as_dtype
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_file, size_of
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
MAGIC = b"TFL3"
MAX_TABLE_ENTRIES = 1 << 16  # tensors and operators
MAX_FLATBUFFER_BYTES = 2 << 30
DTYPE_BY_CODE = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 8: "complex64", 9: "int8",
    10: "float64", 12: "uint64", 15: "uint32", 16: "uint16", 17: "int4", 18: "bfloat16",
}  # fmt: skip
WEIGHT_OPERATORS = {  # operator → (position of the weight among its inputs, axes, kind)
    "FULLY_CONNECTED": (1, "oi", "dense"),
    "CONV_2D": (1, "ohwi", "conv2d"),
    "CONV_3D": (1, "dhwio", "conv3d"),
    "CONV_3D_TRANSPOSE": (1, "dhwoi", "conv3d"),
    "TRANSPOSE_CONV": (1, "ohwi", "conv2d"),
    "DEPTHWISE_CONV_2D": (1, "", "conv2d"),
    "BATCH_MATMUL": (1, "io", "dense"),
    "GATHER": (0, "oi", "embedding"),
    "EMBEDDING_LOOKUP": (1, "oi", "embedding"),
    "SVDF": (1, "oi", "dense"),
}
LSTM_GATES = {1: "i", 2: "f", 3: "g", 4: "o", 5: "i", 6: "f", 7: "g", 8: "o"}  # inputs of an LSTM operator: W, then R
# The same for the second direction of a bidirectional operator.
BACKWARD_LSTM_GATES = {slot + 17: gate for slot, gate in LSTM_GATES.items()}
BIAS_SLOTS = {"FULLY_CONNECTED": (2,), "CONV_2D": (2,), "DEPTHWISE_CONV_2D": (2,), "TRANSPOSE_CONV": (3,)}
GROUPED_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D")
AXIS_PRESERVING_OPERATORS = ("DEQUANTIZE", "CAST", "QUANTIZE")
QUANTIZED_DTYPES = ("int8", "uint8", "int16", "int4", "int32")


def accepts(target: Any) -> bool:
    """Accept a flatbuffer with TFLite's identifier, or a file called .tflite."""
    return is_file(target) and (target.suffix == ".tflite" or whole_file(target).read(4, 4) == MAGIC)


def open(target: Path) -> Tensors:
    """Read the tables of tensors and operators."""
    if size_of(target) < 8 or whole_file(target).read(4, 4) != MAGIC or size_of(target) > MAX_FLATBUFFER_BYTES:
        raise Unreadable(
            f"{target}: not a TFLite model, truncated, or more than 2 GiB; convert or download the model again"
        )
    reads: dict[str, Callable[[], Array]] = {}
    refs: list[LayerRef] = []
    try:
        for constant in _collect_constants(target):
            rows, read = constant.lay_out()
            reads[constant.key] = read
            refs += rows
    except LayerscopeError:
        raise
    except Exception as error:  # flatbuffers does not check offsets, so damage can raise anything
        raise Unreadable(
            f"{target}: damaged TFLite model: {type(error).__name__}: {str(error)[:100]}; convert or download it again"
        ) from None
    if not refs:
        raise Unreadable(f"{target}: the TFLite model contains no weights; convert a model with parameters")
    return Tensors(make_spec(target, "tflite", portable=True), refs, lambda name: reads[name]())


def _collect_constants(target: Path) -> list[Constant]:
    try:
        from tflite import BuiltinOperator, Model
    except ImportError:
        raise MissingExtra("a TFLite model", "tflite") from None
    raw = whole_file(target).read()
    operators = {value: name for name, value in vars(BuiltinOperator).items() if name.isupper()}
    model = Model.GetRootAs(raw, 0)
    if (
        model.SubgraphsLength() > MAX_TABLE_ENTRIES
        or model.BuffersLength() > MAX_TABLE_ENTRIES
        or model.OperatorCodesLength() > MAX_TABLE_ENTRIES
    ):
        raise Unreadable(f"{target}: a table of the model has more than {MAX_TABLE_ENTRIES:,} entries, the limit")
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    names = [operators.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "CUSTOM") for code in codes]
    constants: list[Constant] = []
    budget = MAX_TABLE_ENTRIES  # for the whole file, because tables may point to the same data
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        budget -= graph.TensorsLength() + graph.OperatorsLength()
        if budget < 0:
            raise Unreadable(f"{target}: more than {MAX_TABLE_ENTRIES:,} tensors and operators in total, the limit")
        uses = _find_uses(graph, names)
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            location = _locate_data(target, model, tensor, len(raw), raw)
            if location is not None:
                constants.append(Constant(target, f"{number}.{index}", tensor, *location, uses.get(index)))
    return constants


@dataclass(frozen=True)
class Use:
    """An operator that uses a tensor as input."""

    operator: str
    slot: int  # position among the operator's inputs
    channels: int  # size of the last axis of its first input; 0 if unknown


def _find_uses(graph: Any, names: list[str]) -> dict[int, Use]:
    """Map each tensor to the operator that uses it, directly or after dequantization."""
    use_by_tensor: dict[int, Use] = {}
    output_by_input: dict[int, int] = {}
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        name = names[operator.OpcodeIndex()]
        inputs = [int(operator.Inputs(k)) for k in range(min(operator.InputsLength(), 32))]
        if name in AXIS_PRESERVING_OPERATORS and inputs and operator.OutputsLength():
            output_by_input[inputs[0]] = int(operator.Outputs(0))
            continue
        channels = _last_axis_size(graph, inputs[0]) if inputs and name in GROUPED_OPERATORS else 0
        for slot, tensor in enumerate(inputs):
            previous = use_by_tensor.get(tensor)
            if previous is None or (previous.operator not in WEIGHT_OPERATORS and name in WEIGHT_OPERATORS):
                use_by_tensor[tensor] = Use(name, slot, channels)
    return {
        **{tensor: use_by_tensor[after] for tensor, after in output_by_input.items() if after in use_by_tensor},
        **use_by_tensor,
    }


def _last_axis_size(graph: Any, tensor: int) -> int:
    """Size of the last axis of a tensor, or 0 if unknown."""
    if not 0 <= tensor < graph.TensorsLength():
        return 0
    described = graph.Tensors(tensor)
    axes = described.ShapeLength()
    return max(0, int(described.Shape(axes - 1))) if 0 < axes <= MAX_AXES else 0


def _locate_data(target: Path, model: Any, tensor: Any, length: int, raw: bytes) -> tuple[int, int] | None:
    """Locate the values of a constant: (first byte, bytes), or None for a computed tensor."""
    if not 0 <= tensor.Buffer() < model.BuffersLength():
        raise Unreadable(
            f"{target}: damaged TFLite model: a tensor refers to buffer {tensor.Buffer()}, but there are "
            f"{model.BuffersLength()}; convert or download it again"
        )
    buffer = model.Buffers(tensor.Buffer())
    if buffer.DataLength():
        offset = buffer._tab.Vector(buffer._tab.Offset(4))
        start, count = int(offset), int(buffer.DataLength())
    else:
        start = int(buffer.Offset()) if hasattr(buffer, "Offset") else 0
        count = int(buffer.Size()) if start > 1 else 0
    if not count:
        return None
    if start < 0 or start + count > length:
        raise Unreadable(
            f"{target}: truncated: a tensor ends at byte {start + count:,}, but the file has {length:,} bytes; "
            "convert or download it again"
        )
    return start, count


class Constant:
    """A tensor with values stored in the file."""

    def __init__(self, target: Path, key: str, tensor: Any, start: int, count: int, use: Use | None) -> None:
        self.target, self.key, self.start, self.use = target, key, start, use
        self.name = last_joined_name((tensor.Name() or b"").decode("utf-8", "replace")) or f"tensor {key}"
        if tensor.ShapeLength() > MAX_AXES:
            raise Unreadable(
                f"{target}: {self.name[:80]!r} has {tensor.ShapeLength()} axes; at most {MAX_AXES} are supported"
            )
        self.shape = tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))
        self.dtype = DTYPE_BY_CODE.get(tensor.Type(), f"type {tensor.Type()}")
        self.fault = "sparse, not decoded" if tensor.Sparsity() is not None else ""
        self.scales, self.zeros, self.axis = _read_scales(tensor.Quantization())
        bits = (
            4
            if self.dtype == "int4"
            else 8 * (np.dtype(_numpy_dtype(self.dtype)).itemsize if self.has_known_dtype else 1)
        )
        expected_bytes = -(-math.prod(self.shape) * bits // 8)
        if min(self.shape, default=0) < 0 or (self.has_known_dtype and not self.fault and count != expected_bytes):
            raise Unreadable(
                f"{target}: {self.name[:80]!r}: {count:,} bytes cannot hold shape {str(self.shape)[:80]} of dtype "
                f"{self.dtype}; convert or download the model again"
            )

    @property
    def has_known_dtype(self) -> bool:
        """Whether values of its data type can be read."""
        return self.dtype in DTYPE_BY_CODE.values()

    def lay_out(self) -> tuple[list[LayerRef], Callable[[], Array]]:
        """The rows of the tensor, and the function that reads it."""
        decoded = self.dtype in QUANTIZED_DTYPES and self.scales is not None
        how = f"dequantized from {self.dtype}" if decoded else ""
        ref = LayerRef(0, self.name, self.shape, "", "float32" if decoded else self.dtype, "", tensor=self.key, how=how)
        operator, slot, channels = (self.use.operator, self.use.slot, self.use.channels) if self.use else ("", -1, 0)
        unfit = ("tensor", self.fault) if self.fault else skip_reason(ref.shape, ref.dtype)
        if not unfit and slot in BIAS_SLOTS.get(operator, ()):
            unfit = ("bias", f"{len(ref.shape)}-D")
        if not unfit and len(ref.shape) == 1:
            unfit = ("vector", "1-D")
        if unfit:
            return [replace(ref, kind=unfit[0], skipped=unfit[1])], self.read
        weight_slot, axes, kind = WEIGHT_OPERATORS.get(operator, (-1, "", ""))
        gates = {**LSTM_GATES, **(BACKWARD_LSTM_GATES if operator.startswith("BIDIRECTIONAL") else {})}
        if operator.endswith("LSTM") and slot in gates and len(ref.shape) == 2:
            how = join_descriptions(how, f"{operator}, gate {gates[slot]}")
            return [replace(ref, axes="oi", kind="lstm", how=how)], self.read
        if slot == weight_slot and operator == "DEPTHWISE_CONV_2D" and len(ref.shape) == 4:
            groups = channels if channels and ref.shape[3] % channels == 0 else ref.shape[3]
            row = replace(ref, axes="hwio", shape=(*ref.shape[1:3], 1, ref.shape[3]), groups=groups, kind=kind)
            row = replace(row, how=join_descriptions(how, f"depthwise, {groups} groups"))
            return [row], lambda: self.read().reshape(row.shape)
        if slot == weight_slot and operator == "CONV_2D" and len(ref.shape) == 4 and channels > ref.shape[3] > 0:
            groups = channels // ref.shape[3]
            if channels % ref.shape[3] == 0 and ref.shape[0] % groups == 0:
                ref, operator = replace(ref, groups=groups), f"{operator}, {groups} groups"
        if slot == weight_slot and len(axes) <= len(ref.shape) <= len(axes) + (axes == "io"):
            axes = "e" * (len(ref.shape) - len(axes)) + axes
            return [replace(ref, axes=axes, kind=kind, how=join_descriptions(how, operator))], self.read
        return [
            replace(ref, kind="constant", skipped=f"an operand of {operator}" if operator else "not used")
        ], self.read

    def read(self) -> Array:
        """The values, dequantized if the tensor is quantized."""
        extent = whole_file(self.target)
        if self.dtype == "int4":
            raw = np.frombuffer(extent.read(self.start, -(-math.prod(self.shape) // 2)), np.int8)
            pairs = np.stack([(raw << 4).astype(np.int8) >> 4, raw >> 4], axis=-1)
            codes: Array = pairs.reshape(-1)[: math.prod(self.shape)].reshape(self.shape)
        else:
            codes = extent.array(_numpy_dtype(self.dtype), self.start, self.shape)
        if self.scales is None or self.dtype not in QUANTIZED_DTYPES:
            return codes
        broadcast_shape = [1] * len(self.shape)
        if self.scales.size > 1:
            broadcast_shape[self.axis] = self.scales.size
        if self.zeros.size not in (0, self.scales.size):
            raise ValueError(f"the tensor has {self.zeros.size} zero points, but {self.scales.size} scales")
        zeros = self.zeros.reshape(broadcast_shape) if self.zeros.size else np.float32(0)
        return (codes.astype(np.float32) - zeros) * self.scales.reshape(broadcast_shape)


def _numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(np.int8) if name == "int4" else as_dtype(name)


def _read_scales(table: Any) -> tuple[Array | None, Array, int]:
    """Read (scales, zero points, axis of the scales) of a tensor; the scales are None if it is not quantized."""
    if table is None or not table.ScaleLength() or table.ScaleLength() > MAX_TABLE_ENTRIES:
        return None, np.zeros(0, np.float32), 0
    scales = np.asarray(table.ScaleAsNumpy(), np.float32)
    zeros = np.asarray(table.ZeroPointAsNumpy(), np.float32) if table.ZeroPointLength() else np.zeros(0, np.float32)
    return scales, zeros, int(table.QuantizedDimension())
