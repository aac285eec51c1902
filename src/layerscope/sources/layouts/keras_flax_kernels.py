"""Axes of kernels stored by Keras and Flax: (in, out), (positions…, in, out), gates and heads along an axis.

The kind of layer and the variable's name determine the axes; sizes do not.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from layerscope.records.layers import LayerRef
from layerscope.sources.layouts.torch_names import equal_parts, join_descriptions, matches, skip_reason, split_ref

if TYPE_CHECKING:
    from layerscope.array_types import Array

CONV = {3: ("conv1d", "wio"), 4: ("conv2d", "hwio"), 5: ("conv3d", "dhwio")}
GATES = {"lstm": "ifgo", "gru": "zrh", "rnn": ""}  # in Keras's order; Keras calls g c
HEADS_OUT = ("query", "key", "value")
HEADS_IN = ("attention_output", "out")
STATISTICS = ("moving_mean", "moving_variance", "mean", "var")
NORMS = ("gamma", "beta", "scale")
NNX_VALUE = re.compile(r"\.(raw_)?value$")  # suffix of the arrays in an NNX state
EMBEDDINGS = re.compile(r"(\w*_)?embeddings?(_table)?$")
INGREDIENTS = re.compile(r"lora_\w+|\w+_(scale|zero)|g_idx")
CONVOLUTION_KERNEL = re.compile(r"(\w*_)?(kernel|weights?)$")
EQUATION = re.compile(r"([a-zA-Z.]+),([a-zA-Z]+)->([a-zA-Z.]+)$")


@dataclass(frozen=True)
class Variable:
    """One variable of a layer, as a file or a live model describes it."""

    name: str  # unique: the path to the variable
    shape: tuple[int, ...]
    dtype: str
    layer: str = ""  # the kind of layer: "dense", "conv", "conv_transpose", "depthwise", "recurrent", ...; "" unknown
    groups: int = 0  # of a convolution; 0 if the file does not specify it
    equation: str = ""  # of an einsum
    gates: str = ""  # "lstm", "gru", "rnn"
    fault: str = ""
    not_weight: tuple[str, str] | None = None  # (kind, reason) of what the inventory knows to be no weight

    @property
    def variable(self) -> str:
        """The name of the variable within its layer: kernel, bias, ..."""
        return self.words[-1]

    @property
    def words(self) -> list[str]:
        """The parts of its name, without the suffix that Flax's NNX adds."""
        return re.split(r"[/.]", NNX_VALUE.sub("", self.name))

    @property
    def owner(self) -> str:
        """The name of the layer that contains the variable."""
        return (self.words[-2:-1] or [""])[0]


@dataclass(frozen=True)
class VariableLayout:
    """The rows of one variable, and how its tensor is rearranged before they are read."""

    refs: list[LayerRef]
    order: tuple[int, ...] = ()  # permutation of the axes
    shape: tuple[int, ...] = field(default=())  # after the permutation; () leaves the tensor as it is

    def arrange(self, tensor: Array) -> Array:
        """Return the tensor rearranged to match the rows."""
        if not self.shape:
            return tensor
        return (tensor.transpose(self.order) if self.order else tensor).reshape(self.shape)


def lay_out_variable(variable: Variable) -> VariableLayout:
    """Return the rows of one variable and the arrangement of its tensor."""
    v, name = variable, variable.variable
    ref = LayerRef(0, v.name, v.shape, "", v.dtype, "", tensor=v.name)
    skip = _skip_reason(v)
    if skip:
        return VariableLayout([replace(ref, kind=skip[0], skipped=skip[1])])
    if (matches(EMBEDDINGS, name) or v.layer == "embedding") and len(v.shape) == 2:
        return VariableLayout([replace(ref, kind="embedding", axes="oi")])
    if v.gates and (len(v.shape) == 2 or len(v.shape) in CONV):
        axes = "io" if len(v.shape) == 2 else CONV[len(v.shape)][1]
        return VariableLayout(_split_gates(replace(ref, axes=axes, kind=v.gates, how="stored (in, out)"), v.gates))
    if v.layer == "depthwise" or name == "depthwise_kernel":
        return _lay_out_depthwise(ref)
    match = EQUATION.match(v.equation)
    if match:
        return _lay_out_einsum(ref, *match.groups())
    if len(v.shape) == 3 and v.owner in (*HEADS_OUT, *HEADS_IN) and v.layer in ("", "einsum"):
        return _join_heads(ref, v.owner in HEADS_OUT)
    if len(v.shape) == 2:
        return VariableLayout([replace(ref, kind="dense", axes="io", how="stored (in, out)")])
    is_convolution = v.layer in ("conv", "conv_transpose", "separable") or matches(CONVOLUTION_KERNEL, name)
    if v.layer == "einsum" or len(v.shape) not in CONV or not is_convolution:
        reason = f"{len(v.shape)}-D: " + (
            "its einsum equation is not in this file" if v.layer == "einsum" else "not a known kind of layer"
        )
        return VariableLayout([replace(ref, kind="tensor", skipped=reason)])
    return _lay_out_convolution(ref, v)


def _skip_reason(v: Variable) -> tuple[str, str] | None:
    if v.fault:
        return "tensor", v.fault
    if v.not_weight:
        return v.not_weight
    skip = skip_reason(v.shape, v.dtype)
    if skip:
        return skip
    if v.variable in STATISTICS:
        return "buffer", "running statistics"
    if INGREDIENTS.fullmatch(v.variable):
        return "ingredient", "part of the layer's kernel"
    if "bias" in v.variable:
        return "bias", f"{len(v.shape)}-D" if len(v.shape) == 1 else "a bias"
    if v.variable in NORMS:
        return "norm", f"{len(v.shape)}-D"
    return ("vector", "1-D") if len(v.shape) == 1 else None


def _split_gates(ref: LayerRef, kind: str) -> list[LayerRef]:
    labels = GATES[kind]
    last = len(ref.shape) - 1
    if not labels or ref.shape[last] % len(labels):
        return [ref]
    return split_ref(ref, equal_parts(labels, last, ref.shape[last]), f"split gates {', '.join(labels)}")


def _lay_out_convolution(ref: LayerRef, v: Variable) -> VariableLayout:
    kind, axes = CONV[len(v.shape)]
    how = "stored (…, in, out)"
    if v.layer == "conv_transpose":
        axes, how = axes[:-2] + "oi", "stored (…, out, in)"
    if v.groups == 0 and v.layer != "conv_transpose" and v.shape[-2] < v.shape[-1]:
        how = join_descriptions(how, "read as one group, because the file does not name groups")
    if v.groups > 1 and v.shape[-1] % v.groups == 0:
        how = join_descriptions(how, f"{v.groups} groups")
    groups = v.groups if v.groups > 1 and v.shape[axes.index("o")] % v.groups == 0 else 1
    return VariableLayout([replace(ref, kind=kind, axes=axes, groups=groups, how=how)])


def _lay_out_depthwise(ref: LayerRef) -> VariableLayout:
    """Lay out a kernel (positions…, in, multiplier): one group per input channel with matrices (multiplier, 1)."""
    *positions, inputs, multiplier = ref.shape
    if len(ref.shape) not in CONV:
        return VariableLayout([replace(ref, kind="tensor", skipped=f"{len(ref.shape)}-D: not a known kind of layer")])
    kind, axes = CONV[len(ref.shape)]
    shape = (*positions, 1, inputs * multiplier)
    return VariableLayout(
        [replace(ref, kind=kind, axes=axes, shape=shape, groups=inputs, how=f"depthwise, {inputs} groups")], (), shape
    )


def _join_heads(ref: LayerRef, heads_are_outputs: bool) -> VariableLayout:
    """Lay out an attention projection (in, heads, size) or (heads, size, out) as one matrix."""
    a, b, c = ref.shape
    shape, heads, axis = ((a, b * c), b, "o") if heads_are_outputs else ((a * b, c), a, "i")
    row = replace(
        ref, shape=shape, axes="io", kind="dense", heads=heads, heads_on=axis, how="stored (in, out), heads joined"
    )
    return VariableLayout([row], (), shape)


def _lay_out_einsum(ref: LayerRef, into: str, kernel: str, out: str) -> VariableLayout:
    """Lay out a kernel by its einsum equation.

    Axes in both the input and the output are a stack, axes in the input alone are inputs, and the others are outputs.
    """
    if len(kernel) != len(ref.shape) or len(set(kernel)) != len(kernel):
        reason = f"its einsum equation {into},{kernel}->{out} does not match its shape"
        return VariableLayout([replace(ref, kind="tensor", skipped=reason)])
    groups = ([], [], [])  # type: tuple[list[int], list[int], list[int]]
    for axis, letter in enumerate(kernel):
        groups[0 if letter in into and letter in out else 1 if letter in into else 2].append(axis)
    stack, inputs, outputs = (math.prod(ref.shape[axis] for axis in group) for group in groups)
    order = tuple(axis for group in groups for axis in group)
    shape, axes = ((stack, inputs, outputs), "eio") if groups[0] else ((inputs, outputs), "io")
    heads = {}
    if not groups[0] and len(kernel) == 3:
        head_axes = groups[2] if len(groups[2]) == 2 else groups[1]
        heads = {"heads": ref.shape[head_axes[0]], "heads_on": "o" if head_axes is groups[2] else "i"}
    how = f"einsum {into},{kernel}->{out}" if len(kernel) > 2 else "stored (in, out)"
    return VariableLayout([replace(ref, kind="dense", axes=axes, shape=shape, how=how, **heads)], order, shape)  # type: ignore[arg-type]
