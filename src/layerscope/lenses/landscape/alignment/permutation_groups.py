"""Groups of hidden units that can be permuted together, traced while a copy of the network runs on random weights.

Each call of a torch function is classified by experiment instead of by name: the function is called again with whole
units of its inputs permuted. If the result is permuted the same way, its parts belong to the same units. If the result
is unchanged, it depends on no unit. Otherwise the units are fixed and never permuted. Reshapes, attention heads, rotary
embeddings, pools and control flow therefore need no special cases. Only functions that create new units have one:
linear maps, embeddings and fused attention.

Terms, here and in ``hidden_units``:

unit
    One output of a linear map, or several outputs that move together, such as those of an attention head. Every single
    output has its own id.
label
    The id of the output that an entry of a tensor belongs to, or ``NO_UNIT`` (−1) if it belongs to none. The labels of
    a tensor form an array of its shape, with size 1 along each axis on which they do not change.
table
    The ids of a group, (units, ids per unit), with one row per unit.
group
    Units that share one order. Permuting the rows of their table in all of their places leaves the function unchanged.
place
    The entries along one axis of one parameter that belong to a group, (units, entries per unit): for example the rows
    of the weight that produces the units, and the columns of the next weight, which reads them.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.lenses.landscape.alignment.hidden_units import (
    NO_UNIT,
    Conflict,
    Group,
    Units,
    collapse_constant_axes,
    labels_on_axis,
    repeat_per_entry,
)
from layerscope.lenses.landscape.alignment.index_tracing import (
    Call,
    function_name,
    permute_parts,
    permuted_axis,
    trace_index_map,
)
from layerscope.lenses.landscape.alignment.special_layers import SPECIAL_LAYERS
from layerscope.live.nested_tensors import tensors_in
from layerscope.live.outputs import run_model
from layerscope.live.user_code import Forward, translate_errors

if TYPE_CHECKING:
    from layerscope.array_types import Ints

HOMOGENEOUS = {
    "relu", "relu_", "leaky_relu", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "sum", "amax", "dropout", "dropout2d", "dropout3d",
}  # fmt: skip
LINEAR_MAPS = {  # function name → (input axis, output axis) of the weight
    "linear": (1, 0), "conv1d": (1, 0), "conv2d": (1, 0), "conv3d": (1, 0), "conv_transpose1d": (0, 1),
    "conv_transpose2d": (0, 1), "conv_transpose3d": (0, 1), "addmm": (0, 1), "mm": (0, 1), "matmul": (0, 1),
    "__matmul__": (0, 1),
}  # fmt: skip
MODEL_OUTPUT = "the model's output"  # why the units of the last layer keep their order
MAX_AXIS_CHOICES = 16  # combinations of axes, one for each input, tried for one call


def trace_groups(model: Any, x: Any, forward: Forward | None = None) -> list[Group]:
    """Trace the permutation groups of a model, in the order in which the data reach them; fixed groups are included.

    :param x: a small batch of inputs.
    :param forward: function (model, x) → output, if calling ``model(x)`` is not enough.
    :raises Unreadable: if the model raises an exception or does not return a tensor.
    """
    try:
        return _trace_groups(_randomized_copy(model).double(), x.double() if x.is_floating_point() else x, forward)
    except Unreadable:  # the model converts to float32 itself
        return _trace_groups(_randomized_copy(model).float(), x.float() if x.is_floating_point() else x, forward)


def _trace_groups(network: Any, x: Any, forward: Forward | None) -> list[Group]:
    import torch
    from torch.overrides import TorchFunctionMode

    trace = UnitTrace(network)

    class Watch(TorchFunctionMode):  # type: ignore[misc]
        """Intercepts every call of a torch function."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return trace.run(func, args, kwargs or {})

    with torch.no_grad(), translate_errors("the model"), Watch():
        output = run_model(network, x, forward)
    trace.units.fix(trace.labels(output), MODEL_OUTPUT)
    for name, p in network.named_parameters():
        if name not in trace.used_parameters and p.is_floating_point():
            trace.units.fix_matching_sizes(p.shape, f"{name} was not used in the run")
    unknown = [Group(0, fixed=reason) for reason in trace.untraced]
    return [*(group for group in trace.units.groups() if group.places), *unknown]


def _randomized_copy(model: Any) -> Any:
    """Copy a model with random float64 weights, so that zeros and ones cannot hide how a function treats units."""
    import torch

    with translate_errors("copying the model"):
        network = copy.deepcopy(model).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for p in network.parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
        p.copy_(noise / max(1, p[0].numel()) ** 0.5 if p.dim() > 1 else 1 + 0.3 * noise)
    for name, b in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            b.copy_(0.5 + torch.rand(b.shape, generator=generator, dtype=torch.float64).to(b.device))
    return network


class UnitTrace:
    """Tracks which unit each entry of each tensor belongs to while the network runs."""

    def __init__(self, model: Any) -> None:
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.units = Units()
        self.names = {id(tensor): name for name, tensor in state.items()}  # id of each parameter or buffer → name
        self._labels: dict[int, Ints] = {}  # id of each tensor with units → its labels
        self._alive: list[Any] = [*state.values()]  # kept alive, because Python reuses the ids of deleted tensors
        self._source_weights: dict[int, str] = {}  # id of each output of a linear map → its weight
        self.untraced: dict[str, None] = {}  # reasons why the units of some parameters are not known
        self.used_parameters: set[str] = set()  # names of the parameters that a function has read
        self._rng = np.random.default_rng(0)

    def labels(self, tensor: Any) -> Ints:
        """Return the labels of a tensor."""
        return self._labels.get(id(tensor), np.full((1,) * tensor.dim(), NO_UNIT))

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call a torch function and trace units through it."""
        name = function_name(func)
        traced = [
            tensor for tensor in tensors_in((args, kwargs)) if id(tensor) in self._labels or self.is_state(tensor)
        ]
        labeled = [tensor for tensor in traced if id(tensor) in self._labels]
        state = [tensor for tensor in traced if self.is_state(tensor)]
        if name != "__get__":
            self.used_parameters |= {self.names[id(tensor)] for tensor in state}
        before = {id(tensor): tensor.detach().clone() for tensor in labeled}
        result = func(*args, **kwargs)
        call = Call(func, args, kwargs, before, list(tensors_in(result)))
        if name == "__setitem__":
            self._fix_units_of(traced, name)
        if not traced or not call.results or any(a is b for a in call.results for b in state):
            return result
        if self._trace_linear_map(call) or any(trace(self, call) for trace in SPECIAL_LAYERS):
            return result
        if labeled:
            self._classify_call(call)
        else:
            self._trace_rearranged_parameter(call, traced)
        return result

    def is_state(self, tensor: Any) -> bool:
        """Whether a tensor is a parameter or a buffer of the model."""
        return id(tensor) in self.names

    def set_labels(self, tensor: Any, labels: Ints) -> None:
        """Give a tensor its labels; one without units has none."""
        self._labels.pop(id(tensor), None)
        if (labels >= 0).any():
            self._labels[id(tensor)] = labels
            self._alive.append(tensor)

    def labels_along(self, tensor: Any, axis: int) -> Ints:
        """Return the labels along one axis; if they vary along another axis, fix the units and return no labels."""
        labels = self.labels(tensor)
        if all(size == 1 for k, size in enumerate(labels.shape) if k != axis % tensor.dim()):
            return np.asarray(np.broadcast_to(labels.reshape(-1), (tensor.shape[axis],)))
        codes = self.units.unit_codes(np.broadcast_to(labels, tensor.shape))
        rows = np.moveaxis(codes, axis, -1).reshape(-1, tensor.shape[axis])
        if (rows == rows[0]).all():
            full = np.broadcast_to(labels, tensor.shape)
            return np.asarray(np.moveaxis(full, axis, -1).reshape(-1, tensor.shape[axis])[0])
        self.units.fix(labels, "a linear map over several axes")
        return np.full(tensor.shape[axis], NO_UNIT)

    # --- functions that create new units ------------------------------------------------------------------------

    def _trace_linear_map(self, call: Call) -> bool:
        """Trace a linear layer, a convolution or an embedding, which creates new units; False for other functions."""
        name, result = call.name, call.results[0]
        if name == "embedding" and self.is_state(call.argument(1, "weight")):
            weight = call.argument(1, "weight")
            ids = self.units.number_outputs(self.names[id(weight)], 1, weight.shape[1])
            self.set_labels(result, labels_on_axis(ids, result.dim(), -1))
            return True
        if name not in LINEAR_MAPS:
            return False
        first = 1 if name == "addmm" else 0  # position of the input, which follows the bias in addmm
        x = call.argument(first, "mat1" if first else "input")
        weight = call.argument(first + 1, "mat2" if first else "weight")
        bias = call.args[0] if first else call.argument(2, "bias")
        is_convolution = name.startswith("conv")
        if not self.is_state(weight) or (weight.dim() != 2 and not is_convolution):
            return False
        weight_name, (input_axis, output_axis) = self.names[id(weight)], LINEAR_MAPS[name]
        axis = x.dim() - weight.dim() + 1 if is_convolution else x.dim() - 1
        labels = self.labels_along(x, axis)
        groups = call.argument(6, "groups", 1) if is_convolution else 1
        if groups > 1:
            is_depthwise = groups == x.shape[axis] == weight.shape[0] and output_axis == 0
            self._trace_grouped_convolution(weight, bias, labels, is_depthwise, result, axis)
            return True
        self.units.place(weight_name, input_axis, labels)
        ids = self.units.number_outputs(weight_name, output_axis, weight.shape[output_axis])
        self.place_bias(bias, ids)
        self.set_labels(result, labels_on_axis(ids, result.dim(), axis))
        self._source_weights[id(result)] = weight_name
        return True

    def _trace_grouped_convolution(
        self, weight: Any, bias: Any, labels: Ints, is_depthwise: bool, result: Any, axis: int
    ) -> None:
        """Trace a convolution with groups: depthwise filters belong to their channel's unit; other units are fixed."""
        name = self.names[id(weight)]
        if is_depthwise:
            self.units.place(name, 0, labels)
            self.place_bias(bias, labels)
            self.set_labels(result, labels_on_axis(labels, result.dim(), axis))
            return
        ids = self.units.number_axis(name, 0, weight.shape[0])
        self.units.place(name, 0, ids)
        self.units.fix(np.concatenate([labels, ids]), "a convolution with groups")
        self.set_labels(result, np.full((1,) * result.dim(), NO_UNIT))

    def place_bias(self, bias: Any, ids: Ints) -> None:
        """Record that a vector of the model belongs to these units."""
        if self.is_state(bias) and len(ids) == len(bias):
            self.units.place(self.names[id(bias)], 0, ids)

    # --- functions that move units or compute with them ----------------------------------------------------------

    def _classify_call(self, call: Call) -> None:
        """Trace a call that moves entries or computes with whole units; fix the units if the call mixes them."""
        index_maps = trace_index_map(call)
        if index_maps is not None:
            moved = [tensor for tensor in call.inputs if tensor.is_floating_point()]
            shapes = [call.before.get(id(tensor), tensor).shape for tensor in moved]
            flat = np.concatenate([np.broadcast_to(self.labels(tensor), shape).reshape(-1)
                                   for tensor, shape in zip(moved, shapes, strict=True)])  # fmt: skip
            for result, index in zip(call.results, index_maps, strict=True):
                self.set_labels(result, collapse_constant_axes(flat[index]))
            return
        if call.name not in HOMOGENEOUS:
            for tensor in call.inputs:
                self.units.mark_scale_sensitive(self.labels(tensor))
        if call.name == "batch_norm" and call.args and id(call.args[0]) in self._source_weights:
            self.units.mark_before_norm(self._source_weights[id(call.args[0])])
        if not self._trace_whole_units(call):
            self._fix_units_of(call.inputs, call.name)
            for result in call.results:
                self._labels.pop(id(result), None)

    def _trace_rearranged_parameter(self, call: Call, parameters: Sequence[Any]) -> None:
        """Trace a parameter that is sliced, transposed or repeated before use; its last axis gets its own units."""
        index_maps = trace_index_map(call) if len(parameters) == 1 and parameters[0].dim() else None
        if index_maps is None:
            self._fix_units_of(parameters, call.name)
            if call.name != "__get__" and any(parameter.dim() > 1 for parameter in parameters):
                self.untraced[f"{call.name}: not a function whose units are traced"] = None
            return
        parameter = parameters[0]
        ids = self.units.number_axis(self.names[id(parameter)], parameter.dim() - 1, parameter.shape[-1])
        flat = np.broadcast_to(ids, parameter.shape).reshape(-1)
        for result, index in zip(call.results, index_maps, strict=True):
            self.set_labels(result, collapse_constant_axes(flat[index]))

    def _fix_units_of(self, tensors: Sequence[Any], why: str) -> None:
        for tensor in tensors:
            self.units.fix(self.labels(tensor), why)
            if self.is_state(tensor):
                self.units.lock_tensor(self.names[id(tensor)], why)

    def _trace_whole_units(self, call: Call) -> bool:
        """Find one axis per labeled input along which permuting units permutes the results, or leaves them unchanged.

        If there is one, label the results with the same units.
        """
        labels = {key: self._labels[key] for key in call.before}
        codes = [collapse_constant_axes(self.units.unit_codes(array)) for array in labels.values()]
        choices = [[axis for axis, size in enumerate(array.shape) if size > 1] or [0] for array in codes]
        if any(not array.ndim for array in labels.values()):
            return False
        for choice in itertools.islice(itertools.product(*choices), MAX_AXIS_CHOICES):
            axes = dict(zip(call.before, choice, strict=True))
            candidates = {
                key: self.units.table_along(labels[key], call.before[key].shape, axis) for key, axis in axes.items()
            }
            tables = {key: table for key, table in candidates.items() if table is not None}
            count = min(map(len, tables.values()), default=0)
            if len(tables) < len(call.before) or any(len(table) % count for table in tables.values()):
                continue
            tables = {key: table.reshape(count, -1) for key, table in tables.items()}
            if self._permute_and_compare(call, axes, tables):
                return True
        return False

    def _permute_and_compare(self, call: Call, axes: Mapping[int, int], tables: Mapping[int, Ints]) -> bool:
        """Call the function again with permuted units, and check that the results are permuted alike or unchanged.

        If so, tie the units in each row of the tables and label the results.
        """
        order = self._draw_order(np.concatenate(list(tables.values()), 1))
        first = next(iter(axes))
        inputs = {id(tensor): tensor for tensor in call.inputs}
        parameter_axes = self._parameters_along_axis(inputs, call.before, first, axes[first])
        permuted = {key: permute_parts(call.before[key], order, axis) for key, axis in axes.items()}
        permuted |= {key: permute_parts(inputs[key], order, axis) for key, axis in parameter_axes.items()}
        try:
            results = call.repeat(permuted)
        except Exception:  # a function that rejects the permuted inputs cannot be traced
            return False
        result_axes = [
            permuted_axis(result, after, order, axes[first])
            for result, after in zip(call.results, results, strict=True)
        ]
        if any(axis is None for axis in result_axes):
            return False
        try:
            self.units.tie(list(tables.values()))
        except Conflict:
            return False
        for key, axis in parameter_axes.items():
            self.units.place(self.names[key], axis, repeat_per_entry(tables[first], inputs[key].shape[axis]))
        for result, result_axis in zip(call.results, result_axes, strict=True):
            if result_axis is not None and result_axis >= 0:
                self.set_labels(result, self._labels_of_result(call, result, result_axis, axes, tables[first]))
            else:
                self._labels.pop(id(result), None)
        return True

    def _labels_of_result(
        self, call: Call, result: Any, result_axis: int, axes: Mapping[int, int], table: Ints
    ) -> Ints:  # fmt: skip
        """Reuse the labels of an input of the same shape, which can be finer than units; else use one id per unit."""
        for key, axis in axes.items():
            if axis == result_axis and call.before[key].shape == result.shape:
                return self._labels[key]
        return labels_on_axis(repeat_per_entry(table, result.shape[result_axis]), result.dim(), result_axis)

    def _parameters_along_axis(
        self, inputs: Mapping[int, Any], before: Mapping[int, Any], key: int, axis: int
    ) -> dict[int, int]:
        """Find the parameters among the inputs that have an axis aligned with the given axis of a tensor."""
        axis_by_parameter, size = {}, before[key].shape[axis]
        for candidate, tensor in inputs.items():
            if candidate not in self.names or candidate in before or not tensor.dim() or not tensor.is_floating_point():
                continue
            broadcast_axis = axis - before[key].dim() + tensor.dim()
            fitting = [k for k in (broadcast_axis, 0) if 0 <= k < tensor.dim() and tensor.shape[k] == size]
            if fitting:
                axis_by_parameter[candidate] = fitting[0]
        return axis_by_parameter

    def _draw_order(self, rows: Ints) -> Ints:
        """Draw a random order in which only rows with the same set of groups are exchanged."""
        order, kinds = np.arange(len(rows)), self.units.row_kinds(rows)
        for kind in np.unique(kinds):
            inside = np.flatnonzero(kinds == kind)
            shuffled = self._rng.permutation(inside)
            order[inside] = shuffled if (shuffled != inside).any() else inside[::-1]
        return order
