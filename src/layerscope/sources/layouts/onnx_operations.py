"""Rows of an ONNX constant: the operation that multiplies by it says what its axes mean."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from layerscope.records.layers import LayerRef
from layerscope.sources.layouts.keras_flax_kernels import Variable, lay
from layerscope.sources.layouts.torch_names import (
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
from layerscope.sources.readers.onnx_graph import BIASES, NORMS, RESHAPES, Arrival, Constant, Graph, Use

if TYPE_CHECKING:
    from layerscope.array_types import Array

GATES = {"LSTM": ("lstm", "iofg"), "GRU": ("gru", "zrh"), "RNN": ("rnn", "")}  # ONNX's order; it calls g c
ROLES = ("", "weight_ih", "weight_hh")  # of the inputs of these three
NAMELESS = re.compile(r"(onnx::|val_|const_|Constant_?)?[A-Za-z]*_?\d+$|.*const_fold|.*__\d+$")
CODED = {"QLinearConv": (3,), "QLinearMatMul": (0, 3), "QGemm": (0, 3)}  # inputs that are codes
UNDECODED = (
    "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits", "MatMulIntegerToFloat", "MatMulBnb4",
    "GatherBlockQuantized", "QAttention", "DynamicQuantizeLSTM",
)  # fmt: skip
IN_PROJ = "in_proj_bias"
CUTS = (*RESHAPES, "Slice", "Split", "Concat", "Transpose", "Cast", "Identity")  # pass a weight on in pieces

Shapes = Mapping[str, tuple[int, ...]]
Arrange = Callable[[Any], Any]


def rows_of(
    graph: Graph, constant: Constant, ref: LayerRef, shapes: Shapes, fault: str
) -> tuple[list[LayerRef], Arrange]:
    """The rows of one constant, and how its tensor is arranged before they are taken from it."""
    fused = _in_proj(graph, constant)
    ref = replace(ref, name=fused or _name(constant))
    rows, arrange = _layout(ref, constant.arrival, shapes, fault)
    attends = (
        constant.use is not None
        and constant.use.op == "Attention"
        and "qkv_hidden_sizes" not in constant.use.attributes
    )
    if (fused or attends) and len(rows) == 1 and set(rows[0].axes) == {"o", "i"}:
        axis = rows[0].axes.index("o")
        if ref.shape[axis] % 3 == 0:
            parts = equal_parts("qkv", axis, ref.shape[axis])
            rows = split_ref(replace(rows[0], kind="attention"), parts, "split q, k, v")
    return rows, arrange


def _in_proj(graph: Graph, constant: Constant) -> str:
    """The name of the weight that belongs to an in_proj_bias: a projection to q, k and v together, or ""."""
    use = constant.use
    if use is None or use.op != "MatMul" or len(constant.proto.dims) != 2 or not use.outputs:
        return ""
    added = [key for after in graph.uses.get(use.outputs[0], [])[:8] if after.op == "Add" for key in after.inputs[:2]]
    bias = next((key[1] for key in added if key[1].endswith(IN_PROJ) and key in graph.by_key), "")
    return f"{bias.removesuffix('bias')}weight" if bias else ""


def _layout(ref: LayerRef, arrival: Arrival | None, shapes: Shapes, fault: str) -> tuple[list[LayerRef], Arrange]:
    use = arrival.use if arrival else None
    unfit = ("quantised", fault) if fault else _unfit(ref, use)
    if unfit:
        return [replace(ref, kind=unfit[0], skipped=unfit[1])], _as_it_is
    if arrival is None or arrival.reshaped or arrival.use.op in CUTS:
        if len(ref.shape) == 2 and ("weight" in ref.name or "kernel" in ref.name):
            return _by_name(ref, shapes), _as_it_is
        if arrival is None or not arrival.reshaped:
            reason = "not used" if arrival is None else f"an operand of {arrival.use.op}"
            return [replace(ref, kind="constant", skipped=reason)], _as_it_is
        return _reshaped(ref, arrival)
    rows, arrange = _by_operation(ref, arrival)
    if rows and rows[0].axes == "oi" and len(ref.shape) == 2 and matches(RECURRENT, ref.name):
        return _by_name(ref, shapes), _as_it_is  # a cell written out: its gates are told by its names
    if rows:
        return rows, arrange
    if arrival.use.op == "Einsum":
        return _einsum(ref, arrival)
    if len(ref.shape) <= 3 and matches(EMBEDDING, re.split(r"[/.]", ref.name)[-1]):
        return _by_name(ref, shapes), _as_it_is
    return [replace(ref, kind="constant", skipped=f"an operand of {arrival.use.op}")], _as_it_is


def _as_it_is(tensor: Array) -> Array:
    return tensor


def _by_name(ref: LayerRef, shapes: Shapes) -> list[LayerRef]:
    """Rows as PyTorch's naming has them."""
    info = TensorInfo(ref.name, ref.shape, ref.dtype, how=both(ref.how, "axes by its name"))
    return [replace(row, tensor=ref.tensor) for row in layers_of([info], beside=shapes)]


def _reshaped(ref: LayerRef, arrival: Arrival) -> tuple[list[LayerRef], Arrange]:
    """A weight that is reshaped on its way: axes of one entry fall away, what else happens is not followed."""
    sizes = tuple(size for size in ref.shape if size != 1)
    op = arrival.use.op
    if len(sizes) != 2 or op not in ("MatMul", "Gemm"):
        return [replace(ref, kind="constant", skipped=f"reshaped on its way to {op}")], _as_it_is
    how = both(ref.how, op, "reshaped on the way")
    return [replace(ref, shape=sizes, axes="oi", kind="dense", how=how)], lambda tensor: tensor.reshape(sizes)


def _einsum(ref: LayerRef, arrival: Arrival) -> tuple[list[LayerRef], Arrange]:
    """The operand of an einsum, whichever of its two it is."""
    use = arrival.use
    text = use.attributes.get("equation", b"").decode("utf-8", "replace").replace(" ", "")
    operands, _, out = text.partition("->")
    words = operands.split(",")
    if len(words) != 2 or use.slot > 1 or arrival.order != tuple(range(len(ref.shape))):
        return [replace(ref, kind="constant", skipped=f"an operand of {use.op}")], _as_it_is
    equation = f"{words[1 - use.slot]},{words[use.slot]}->{out}"
    found = lay(Variable(ref.tensor, ref.shape, ref.dtype, equation=equation))
    return [replace(row, name=ref.name, how=both(ref.how, row.how)) for row in found.refs], found.arrange


def _unfit(ref: LayerRef, use: Use | None) -> tuple[str, str] | None:
    if use is not None and use.op in UNDECODED:
        return "quantised", f"quantised with {use.op}, not decoded"
    if use is not None and use.slot and use.op in ("DequantizeLinear", "QuantizeLinear"):
        return "ingredient", "scales or zero points"
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


def _by_operation(ref: LayerRef, arrival: Arrival) -> tuple[list[LayerRef], Arrange]:
    """Rows of what an operation multiplies by, axes in the order in which the file stores them; none where unknown."""
    use, order = arrival.use, arrival.order
    op, size = use.op.removeprefix("QLinear").removeprefix("Fused").removeprefix("Q"), len(ref.shape)
    slot = 1 if use.op in CODED and use.slot == 3 else use.slot
    kind, axes, extra = "dense", "", {}  # type: str, str, dict[str, Any]
    if op == "Gemm" and slot < 2 and size == 2:
        turned = bool(use.attributes.get("transB" if slot else "transA", 0))
        axes = "oi" if turned == bool(slot) else "io"
        op = f"Gemm, trans{'B' if slot else 'A'} = {int(turned)}"
    elif op == "MatMul" and slot < 2 and size >= 2:
        if size > 3 and order == tuple(range(size)):
            shape = (math.prod(ref.shape[:-2]), *ref.shape[-2:])
            row = replace(ref, shape=shape, axes="eio" if slot else "eoi", kind="dense", how=both(ref.how, op))
            return [row], lambda tensor: tensor.reshape(shape)
        axes = "e" * (size == 3) + ("io" if slot else "oi") if size < 4 else ""
    elif op == "Attention" and slot == 1 and size == 2:
        axes = "io"
    elif op in ("Conv", "ConvTranspose") and slot == 1 and size in CONV:
        kind, axes = CONV[size]
        extra = _groups(use, ref.shape[order[0]])
        if op == "ConvTranspose" and extra:
            extra = {**extra, "flipped": True}
        elif op == "ConvTranspose":
            axes = "io" + axes[2:]
    elif op == "Gather" and slot == 0 and size == 2:
        kind, axes = "embedding", "oi"
    elif op in GATES and slot in (1, 2) and size == 3 and order == (0, 1, 2):
        return _gates(ref, op), _as_it_is
    if not axes:
        return [], _as_it_is
    stored = [""] * size
    for axis, letter in zip(order, axes, strict=True):
        stored[axis] = letter
    on_the_way = "transposed on the way" if order != tuple(sorted(order)) else ""
    how = both(ref.how, op, f"{extra['groups']} groups" if extra else "", on_the_way)
    return [replace(ref, axes="".join(stored), kind=kind, how=how, **extra)], _as_it_is


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
    name, use = plain(constant.name), constant.use
    if use is None or not use.name or not NAMELESS.fullmatch(name):
        return name
    words = plain(use.name).strip("/").split("/")
    if words[-1].partition("_")[0] == use.op and len(words) > 1:
        words.pop()
    last = "bias" if _is_bias(use) else "weight"
    if use.op in GATES and 0 < use.slot < len(ROLES):
        last = ROLES[use.slot]
    return f"{'.'.join(words)}.{last}"


def plain(name: str) -> str:
    """The last of the names that a converter has joined by semicolons when it fused operations."""
    return next((part for part in reversed(name.split(";")) if part), name)


def _is_bias(use: Use) -> bool:
    return use.slot in BIASES.get(use.op, ()) or use.op in ("Add", "Sub")
