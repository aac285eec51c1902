"""Rows of ONNX constants: the operation that uses a constant determines what its axes mean."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from layerscope.records.layers import LayerRef
from layerscope.sources.layouts.keras_flax_kernels import Variable, lay_out_variable
from layerscope.sources.layouts.torch_names import (
    CONV,
    EMBEDDING,
    RECURRENT,
    TensorInfo,
    equal_parts,
    join_descriptions,
    layers_of,
    matches,
    skip_reason,
    split_ref,
)
from layerscope.sources.quantization.onnx_codes import BLOCKWISE, CODE_SLOTS
from layerscope.sources.readers.onnx_graph import (
    BIAS_SLOTS,
    NORM_OPERATIONS,
    RESHAPING_OPERATIONS,
    Arrival,
    Constant,
    Graph,
    Use,
)

if TYPE_CHECKING:
    from layerscope.array_types import Array

GATES = {"LSTM": ("lstm", "iofg"), "GRU": ("gru", "zrh"), "RNN": ("rnn", "")}  # in ONNX's order; ONNX calls g c
RECURRENT_WEIGHT_NAMES = ("", "weight_ih", "weight_hh")  # by input slot of a recurrent operation
NUMBERED_NAME = re.compile(r"(onnx::|val_|const_|Constant_?)?[A-Za-z]*_?\d+$|.*const_fold|.*__\d+$")
FLOAT_OPERATIONS = {  # quantized operation → the one that it computes
    "QLinearConv": "Conv", "ConvInteger": "Conv", "QLinearMatMul": "MatMul", "MatMulInteger": "MatMul",
    "DynamicQuantizeMatMul": "MatMul", "MatMulIntegerToFloat": "MatMul", "QGemm": "Gemm", "FusedMatMul": "MatMul",
    "FusedConv": "Conv",
}  # fmt: skip
UNDECODED_OPS = ("MatMulBnb4", "GatherBlockQuantized", "QAttention", "DynamicQuantizeLSTM")
SCALES = "quantization scales or zero points"
IN_PROJ_BIAS = "in_proj_bias"
PIECEWISE_OPS = (
    *RESHAPING_OPERATIONS,
    "Slice",
    "Split",
    "Concat",
    "Transpose",
    "Cast",
    "Identity",
)  # they may pass on only pieces of a weight

Shapes = Mapping[str, tuple[int, ...]]
Arrange = Callable[[Any], Any]
Rows = tuple[list[LayerRef], Arrange]  # rows of a constant, and the function that rearranges its tensor for them


def constant_rows(graph: Graph, constant: Constant, ref: LayerRef, shapes: Shapes, fault: str) -> Rows:
    """Return the rows of one constant, and the function that rearranges its tensor before they are read."""
    in_proj_name = _in_proj_weight_name(graph, constant)
    ref = replace(ref, name=in_proj_name or _readable_name(constant))
    rows, arrange = _lay_out_constant(ref, constant.arrival, shapes, fault)
    is_attention = (
        constant.use is not None
        and constant.use.op == "Attention"
        and "qkv_hidden_sizes" not in constant.use.attributes
    )
    if (in_proj_name or is_attention) and len(rows) == 1 and set(rows[0].axes) == {"o", "i"}:
        axis = rows[0].axes.index("o")
        if ref.shape[axis] % 3 == 0:
            parts = equal_parts("qkv", axis, ref.shape[axis])
            rows = split_ref(replace(rows[0], kind="attention"), parts, "split q, k, v")
    return rows, arrange


def _in_proj_weight_name(graph: Graph, constant: Constant) -> str:
    """Return the name of the weight of an in_proj_bias (q, k and v in one projection), or "" if there is none."""
    use = constant.use
    if use is None or use.op != "MatMul" or len(constant.proto.dims) != 2 or not use.outputs:
        return ""
    added = [key for after in graph.uses.get(use.outputs[0], [])[:8] if after.op == "Add" for key in after.inputs[:2]]
    bias = next((key[1] for key in added if key[1].endswith(IN_PROJ_BIAS) and key in graph.by_key), "")
    return f"{bias.removesuffix('bias')}weight" if bias else ""


def _lay_out_constant(ref: LayerRef, arrival: Arrival | None, shapes: Shapes, fault: str) -> Rows:
    use = arrival.use if arrival else None
    skip = ("quantized", fault) if fault else _skip_reason(ref, use)
    if skip:
        return [replace(ref, kind=skip[0], skipped=skip[1])], _unchanged
    if arrival is None or arrival.reshaped or arrival.use.op in PIECEWISE_OPS:
        if len(ref.shape) == 2 and ("weight" in ref.name or "kernel" in ref.name):
            return _rows_by_name(ref, shapes), _unchanged
        if arrival is None or not arrival.reshaped:
            reason = "not used" if arrival is None else f"an operand of {arrival.use.op}"
            return [replace(ref, kind="constant", skipped=reason)], _unchanged
        return _reshaped_rows(ref, arrival)
    rows, arrange = _rows_by_operation(ref, arrival)
    if rows and rows[0].axes == "oi" and len(ref.shape) == 2 and matches(RECURRENT, ref.name):
        return _rows_by_name(ref, shapes), _unchanged  # a cell exported as single operations: names give its gates
    if rows:
        return rows, arrange
    if arrival.use.op == "Einsum":
        return _einsum_rows(ref, arrival)
    if len(ref.shape) <= 3 and matches(EMBEDDING, re.split(r"[/.]", ref.name)[-1]):
        return _rows_by_name(ref, shapes), _unchanged
    return [replace(ref, kind="constant", skipped=f"an operand of {arrival.use.op}")], _unchanged


def _unchanged(tensor: Array) -> Array:
    return tensor


NO_ROWS: Rows = ([], _unchanged)


def _rows_by_name(ref: LayerRef, shapes: Shapes) -> list[LayerRef]:
    """Return the rows that PyTorch's naming implies."""
    info = TensorInfo(ref.name, ref.shape, ref.dtype, how=join_descriptions(ref.how, "axes inferred from the name"))
    return [replace(row, tensor=ref.tensor) for row in layers_of([info], beside=shapes)]


def _reshaped_rows(ref: LayerRef, arrival: Arrival) -> Rows:
    """Return the rows of a weight that is reshaped before use; only reshapes that drop axes of size 1 are supported."""
    sizes = tuple(size for size in ref.shape if size != 1)
    op = arrival.use.op
    if len(sizes) != 2 or op not in ("MatMul", "Gemm"):
        return [replace(ref, kind="constant", skipped=f"reshaped before {op}")], _unchanged
    how = join_descriptions(ref.how, op, "reshaped before use")
    return [replace(ref, shape=sizes, axes="oi", kind="dense", how=how)], lambda tensor: tensor.reshape(sizes)


def _einsum_rows(ref: LayerRef, arrival: Arrival) -> Rows:
    """Return the rows of the first or second operand of an einsum."""
    use = arrival.use
    text = use.attributes.get("equation", b"").decode("utf-8", "replace").replace(" ", "")
    operands, _, out = text.partition("->")
    operand_axes = operands.split(",")
    if len(operand_axes) != 2 or use.slot > 1 or arrival.order != tuple(range(len(ref.shape))):
        return [replace(ref, kind="constant", skipped=f"an operand of {use.op}")], _unchanged
    equation = f"{operand_axes[1 - use.slot]},{operand_axes[use.slot]}->{out}"
    layout = lay_out_variable(Variable(ref.tensor, ref.shape, ref.dtype, equation=equation))
    return [replace(row, name=ref.name, how=join_descriptions(ref.how, row.how)) for row in layout.refs], layout.arrange


def _skip_reason(ref: LayerRef, use: Use | None) -> tuple[str, str] | None:
    if use is not None and use.op in UNDECODED_OPS:
        return "quantized", f"quantized with {use.op}, not decoded"
    if use is not None and use.slot and use.op in ("DequantizeLinear", "QuantizeLinear"):
        return "ingredient", SCALES
    if use is not None and use.op in (*CODE_SLOTS, BLOCKWISE) and use.slot not in (*CODE_SLOTS.get(use.op, (1,)), 0):
        return "ingredient", SCALES
    skip = skip_reason(ref.shape, ref.dtype)
    if skip:
        return skip
    if use is not None and use.slot in BIAS_SLOTS.get(use.op, ()):
        return "bias", f"{len(ref.shape)}-D" if len(ref.shape) == 1 else "a bias"
    if use is not None and use.op in NORM_OPERATIONS and use.slot > 0:
        statistics = use.op == "BatchNormalization" and use.slot > 2
        return ("buffer", "running statistics") if statistics else ("norm", f"{len(ref.shape)}-D")
    if math.prod(ref.shape) == max(ref.shape) and (use is None or use.op not in ("Gemm", "MatMul", "Conv")):
        return "vector", "1-D" if len(ref.shape) == 1 else "a single row or column"
    return None


def _rows_by_operation(ref: LayerRef, arrival: Arrival) -> Rows:
    """Return the rows of a constant by its operation, with axes in stored order; none for an unknown operation."""
    use = arrival.use
    op = FLOAT_OPERATIONS.get(use.op, use.op)
    layout = LAYOUTS.get(op)
    if layout is None:
        return NO_ROWS
    return layout(ref, arrival, op, 1 if use.op in CODE_SLOTS and use.slot == 3 else use.slot)


def _lay_out_blockwise(ref: LayerRef, arrival: Arrival, op: str, slot: int) -> Rows:
    return ([replace(ref, axes="oi", kind="dense", how=ref.how)], _unchanged) if slot == 1 else NO_ROWS


def _lay_out_gemm(ref: LayerRef, arrival: Arrival, op: str, slot: int) -> Rows:
    if slot > 1 or len(ref.shape) != 2:
        return NO_ROWS
    attribute = "transB" if slot else "transA"
    transposed = bool(arrival.use.attributes.get(attribute, 0))
    axes = "oi" if transposed == bool(slot) else "io"
    return _stored_rows(ref, arrival, axes, f"{op}, {attribute} = {int(transposed)}")


def _lay_out_matmul(ref: LayerRef, arrival: Arrival, op: str, slot: int) -> Rows:
    dimensions = len(ref.shape)
    if slot > 1 or dimensions < 2:
        return NO_ROWS
    if dimensions < 4:
        return _stored_rows(ref, arrival, "e" * (dimensions == 3) + ("io" if slot else "oi"), op)
    if arrival.order != tuple(range(dimensions)):
        return NO_ROWS
    shape = (math.prod(ref.shape[:-2]), *ref.shape[-2:])
    how = join_descriptions(ref.how, op)
    row = replace(ref, shape=shape, axes="eio" if slot else "eoi", kind="dense", how=how)
    return [row], lambda tensor: tensor.reshape(shape)


def _lay_out_attention(ref: LayerRef, arrival: Arrival, op: str, slot: int) -> Rows:
    return _stored_rows(ref, arrival, "io", op) if slot == 1 and len(ref.shape) == 2 else NO_ROWS


def _lay_out_convolution(ref: LayerRef, arrival: Arrival, op: str, slot: int) -> Rows:
    if slot != 1 or len(ref.shape) not in CONV:
        return NO_ROWS
    kind, axes = CONV[len(ref.shape)]
    fields = _conv_groups(arrival.use, ref.shape[arrival.order[0]])
    how = join_descriptions(op, f"{fields['groups']} groups" if fields else "")
    if op == "ConvTranspose" and fields:
        fields = {**fields, "flipped": True}
    elif op == "ConvTranspose":
        axes = "io" + axes[2:]
    return _stored_rows(ref, arrival, axes, how, kind=kind, **fields)


def _lay_out_gather(ref: LayerRef, arrival: Arrival, op: str, slot: int) -> Rows:
    return _stored_rows(ref, arrival, "oi", op, kind="embedding") if slot == 0 and len(ref.shape) == 2 else NO_ROWS


def _lay_out_recurrent(ref: LayerRef, arrival: Arrival, op: str, slot: int) -> Rows:
    if slot not in (1, 2) or len(ref.shape) != 3 or arrival.order != (0, 1, 2):
        return NO_ROWS
    return _gate_rows(ref, op), _unchanged


LAYOUTS: dict[str, Callable[[LayerRef, Arrival, str, int], Rows]] = {
    "Gemm": _lay_out_gemm,
    "MatMul": _lay_out_matmul,
    "Attention": _lay_out_attention,
    "Conv": _lay_out_convolution,
    "ConvTranspose": _lay_out_convolution,
    "Gather": _lay_out_gather,
    BLOCKWISE: _lay_out_blockwise,
    **dict.fromkeys(GATES, _lay_out_recurrent),
}


def _stored_rows(ref: LayerRef, arrival: Arrival, axes: str, how: str, *, kind: str = "dense", **fields: Any) -> Rows:
    """Return one row; ``axes`` are those of the operand and are permuted into the order of the file."""
    order = arrival.order
    stored = [""] * len(ref.shape)
    for axis, letter in zip(order, axes, strict=True):
        stored[axis] = letter
    how = join_descriptions(ref.how, how, "transposed before use" if order != tuple(sorted(order)) else "")
    return [replace(ref, axes="".join(stored), kind=kind, how=how, **fields)], _unchanged


def _conv_groups(use: Use, size: int) -> dict[str, Any]:
    groups = use.attributes.get("group", 1)
    return {"groups": groups} if isinstance(groups, int) and 1 < groups <= size and size % groups == 0 else {}


def _gate_rows(ref: LayerRef, op: str) -> list[LayerRef]:
    """Return one row per direction and gate of a tensor (directions, gates · hidden, …)."""
    kind, labels = GATES[op]
    rows: list[LayerRef] = []
    for direction in range(min(ref.shape[0], 2)):
        name = ref.name + ("_reverse" if direction else "")
        row = replace(
            ref,
            name=name,
            shape=ref.shape[1:],
            axes="oi",
            kind=kind,
            expert=direction,
            how=join_descriptions(ref.how, op),
        )
        if labels and ref.shape[1] % len(labels) == 0:
            rows += split_ref(row, equal_parts(labels, 0, ref.shape[1]), f"split gates {', '.join(labels)}")
        else:
            rows.append(row)
    return rows


def _readable_name(constant: Constant) -> str:
    """Return the name of a constant, or that of its operation if an exporter only numbered the constant."""
    name, use = last_joined_name(constant.name), constant.use
    if use is not None and use.slot in CODE_SLOTS.get(use.op, ()):
        name = name.removesuffix("_quantized")  # as ONNX Runtime calls the codes of a weight
    if use is None or not use.name or not NUMBERED_NAME.fullmatch(name):
        return name
    words = last_joined_name(use.name).strip("/").split("/")
    if words[-1].partition("_")[0] == use.op and len(words) > 1:
        words.pop()
    last = "bias" if _is_bias(use) else "weight"
    if use.op in GATES and 0 < use.slot < len(RECURRENT_WEIGHT_NAMES):
        last = RECURRENT_WEIGHT_NAMES[use.slot]
    return f"{'.'.join(words)}.{last}"


def last_joined_name(name: str) -> str:
    """Return the last of the names that a converter joined by semicolons when it fused operations."""
    return next((part for part in reversed(name.split(";")) if part), name)


def _is_bias(use: Use) -> bool:
    return use.slot in BIAS_SLOTS.get(use.op, ()) or use.op in ("Add", "Sub")
