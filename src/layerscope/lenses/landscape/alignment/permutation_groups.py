"""The groups of a network's hidden units, seen while a copy of it runs once on random weights.

Every call of a torch function is asked what it does with units, and nothing is guessed from its name: it is run again
on inputs in which whole units changed places. Where the result is the old one with its parts in another order, these
are numbered by the same units; where it is the old one, nothing is; otherwise the units are fixed and never permuted.
So reshapes, heads of attention, rotary embeddings, pools and control flow need no rule of their own; linear maps,
embeddings and fused attention, which make new units, have one.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.lenses.landscape.alignment import index_tracing
from layerscope.lenses.landscape.alignment.hidden_units import NONE, Conflict, Group, Units
from layerscope.live import nested_tensors
from layerscope.live.user_code import Forward, translate_errors

if TYPE_CHECKING:
    from layerscope.array_types import Ints

HOMOGENEOUS = {
    "relu", "relu_", "leaky_relu", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "sum", "amax", "dropout", "dropout2d", "dropout3d",
}  # fmt: skip
MAPS = {  # name → (axis of the weight that is read, axis that is made)
    "linear": (1, 0), "conv1d": (1, 0), "conv2d": (1, 0), "conv3d": (1, 0), "conv_transpose1d": (0, 1),
    "conv_transpose2d": (0, 1), "conv_transpose3d": (0, 1), "addmm": (0, 1), "mm": (0, 1), "matmul": (0, 1),
    "__matmul__": (0, 1),
}  # fmt: skip


def groups_of(model: Any, x: Any, forward: Forward | None = None) -> list[Group]:
    """The groups of a model, in the order in which data meet them, those that are fixed too.

    :param x: a few inputs.
    :param forward: (model, x) → output, where it is not ``model(x)``.
    :raises Unreadable: the model raises, or returns no tensor.
    """
    try:
        return _groups_of(_random(model).double(), x.double() if x.is_floating_point() else x, forward)
    except Unreadable:  # a model that makes float32 of its own accord
        return _groups_of(_random(model).float(), x.float() if x.is_floating_point() else x, forward)


def _groups_of(network: Any, x: Any, forward: Forward | None) -> list[Group]:
    import torch
    from torch.overrides import TorchFunctionMode

    seen = _Seen(network)

    class Watch(TorchFunctionMode):  # type: ignore[misc]
        """Asks every call of a torch function."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return seen.call(func, args, kwargs or {})

    with torch.no_grad(), translate_errors("the model"), Watch():
        output = forward(network, x) if forward is not None else network(x)
    if not isinstance(output, torch.Tensor):
        raise Unreadable(f"the model returns a {type(output).__name__}, not a tensor: give forward=")
    seen.units.fix(seen.labels(output), "the model's output")
    for name, p in network.named_parameters():
        if name not in seen.met and p.is_floating_point():
            seen.units.fix_sized(p.shape, f"{name} was not met in the run")
    return [group for group in seen.units.groups() if group.places]


def _random(model: Any) -> Any:
    """A copy with random weights, in float64: what a function does with units is not hidden by zeros and ones."""
    import torch

    with translate_errors("copying the model"):
        network = copy.deepcopy(model).double().eval().requires_grad_(False)
    drawn = torch.Generator().manual_seed(0)
    for p in network.parameters():
        noise = torch.randn(p.shape, generator=drawn, dtype=torch.float64).to(p.device)
        p.copy_(noise / max(1, p[0].numel()) ** 0.5 if p.dim() > 1 else 1 + 0.3 * noise)
    for name, b in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            b.copy_(0.5 + torch.rand(b.shape, generator=drawn, dtype=torch.float64).to(b.device))
    return network


class _Seen:
    """What was seen so far: which unit numbers each entry of each tensor."""

    def __init__(self, model: Any) -> None:
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.units = Units()
        self.names = {id(tensor): name for name, tensor in state.items()}
        self._of: dict[int, Ints] = {}  # tensor → ids, with one entry on each axis along which they do not change
        self._alive: list[Any] = [*state.values()]  # an id is a tensor's as long as it lives
        self._raw: dict[int, str] = {}  # tensors that come straight out of a linear map → its weight
        self.met: set[str] = set()  # parameters that some function took
        self._rng = np.random.default_rng(0)

    def labels(self, tensor: Any) -> Ints:
        """Ids of all its entries."""
        return self._of.get(id(tensor), np.full((1,) * tensor.dim(), NONE))

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A torch function is called."""
        given = [
            each for each in nested_tensors.tensors_in((args, kwargs)) if id(each) in self._of or id(each) in self.names
        ]
        known = [each for each in given if id(each) in self._of]
        name = getattr(func, "__name__", str(func))
        self.met |= {self.names[id(each)] for each in given if id(each) in self.names and name != "__get__"}
        before = {id(each): each.detach().clone() for each in known}
        result = func(*args, **kwargs)
        made = list(nested_tensors.tensors_in(result))
        if name == "__setitem__":
            self._fail(given, name)
        if not given or not made or any(each is one for each in made for one in given if id(one) in self.names):
            return result
        if self._linear(name, args, kwargs, result) or self._attention(name, func, args, kwargs, result):
            return result
        if known:
            self._asked(name, func, args, kwargs, before, made)
        else:
            self._of_parameters(name, func, args, kwargs, given, made)
        return result

    def _keep(self, tensor: Any, labels: Ints) -> None:
        self._of.pop(id(tensor), None)
        if (labels >= 0).any():
            self._of[id(tensor)] = labels
            self._alive.append(tensor)

    def _along(self, tensor: Any, axis: int) -> Ints:
        """Ids along one axis; none, and they are fixed, where they change along others."""
        labels = self.labels(tensor)
        if all(size == 1 for k, size in enumerate(labels.shape) if k != axis % tensor.dim()):
            return np.asarray(np.broadcast_to(labels.reshape(-1), (tensor.shape[axis],)))
        codes = self.units.same(np.broadcast_to(labels, tensor.shape))
        rows = np.moveaxis(codes, axis, -1).reshape(-1, tensor.shape[axis])
        if (rows == rows[0]).all():
            whole = np.broadcast_to(labels, tensor.shape)
            return np.asarray(np.moveaxis(whole, axis, -1).reshape(-1, tensor.shape[axis])[0])
        self.units.fix(labels, "a linear map of several axes")
        return np.full(tensor.shape[axis], NONE)

    # --- what makes new units ----------------------------------------------------------------------------------

    def _linear(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """A linear layer, a convolution, an embedding."""
        if name == "embedding" and id(_at(args, kwargs, 1, "weight")) in self.names:
            weight = _at(args, kwargs, 1, "weight")
            called = self.names[id(weight)]
            self._keep(result, _on(self.units.made(called, 1, weight.shape[1]), result.dim(), -1))
            return True
        if name not in MAPS:
            return False
        at = 1 if name == "addmm" else 0
        x = _at(args, kwargs, at, "mat1" if at else "input")
        weight = _at(args, kwargs, at + 1, "mat2" if at else "weight")
        bias = args[0] if at else _at(args, kwargs, 2, "bias")
        conv = name.startswith("conv")
        if id(weight) not in self.names or (weight.dim() != 2 and not conv):
            return False
        called, (reads, makes) = self.names[id(weight)], MAPS[name]
        axis = x.dim() - weight.dim() + 1 if conv else x.dim() - 1
        groups = _at(args, kwargs, 6, "groups", 1) if conv else 1
        labels = self._along(x, axis)
        if groups > 1:
            by_channel = groups == x.shape[axis] == weight.shape[0] and makes == 0
            ids = labels if by_channel else self.units.numbered(called, 0, weight.shape[0])
            self.units.place(called, 0, ids)
            if not by_channel:
                self.units.fix(np.concatenate([labels, ids]), "a convolution in groups")
            self._bias(bias, ids if by_channel else np.full(0, NONE))
            self._keep(result, _on(ids if by_channel else np.full(1, NONE), result.dim(), axis))
            return True
        self.units.place(called, reads, labels)
        ids = self.units.made(called, makes, weight.shape[makes])
        self._bias(bias, ids)
        self._keep(result, _on(ids, result.dim(), axis))
        self._raw[id(result)] = called
        return True

    def _bias(self, bias: Any, ids: Ints) -> None:
        if id(bias) in self.names and len(ids) == len(bias):
            self.units.place(self.names[id(bias)], 0, ids)

    def _attention(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> bool:
        """Attention in one call, as torch.nn.MultiheadAttention makes it: heads of three projections and of one that
        follows."""
        if name != "multi_head_attention_forward":
            return False
        told = inspect.signature(func).bind(*args, **kwargs).arguments
        inside, bias, outside = (told.get(key) for key in ("in_proj_weight", "in_proj_bias", "out_proj_weight"))
        query, width, heads = told["query"], told["embed_dim_to_check"], told["num_heads"]
        plain = query is told["key"] is told["value"] and told.get("bias_k") is None and not told.get("add_zero_attn")
        if not plain or id(inside) not in self.names or id(outside) not in self.names:
            return False
        labels = self._along(query, -1)
        self.units.place(self.names[id(inside)], 1, labels)
        ids = self.units.made(self.names[id(inside)], 0, 3 * width)
        self._bias(bias, ids)
        self.units.tie([ids.reshape(3, heads, -1).transpose(1, 0, 2)])
        self.units.scale(ids)
        self.units.place(self.names[id(outside)], 1, ids[:width])
        out = self.units.made(self.names[id(outside)], 0, width)
        self._bias(told.get("out_proj_bias"), out)
        self._keep(result[0], _on(out, result[0].dim(), -1))
        return True

    # --- what moves units about, or computes with them -----------------------------------------------------------

    def _asked(self, name: str, func: Any, args: Any, kwargs: Any, before: Mapping[int, Any], made: list[Any]) -> None:
        moved = index_tracing.moved(func, args, kwargs, before, made)
        if moved is not None:
            order = [each for each in nested_tensors.tensors_in((args, kwargs)) if each.is_floating_point()]
            flat = np.concatenate([np.broadcast_to(self.labels(each), before.get(id(each), each).shape).reshape(-1)
                                   for each in order])  # fmt: skip
            for tensor, index in zip(made, moved, strict=True):
                self._keep(tensor, _narrow(flat[index]))
            return
        if name not in HOMOGENEOUS:
            for each in nested_tensors.tensors_in((args, kwargs)):
                self.units.scale(self.labels(each))
        if name == "batch_norm" and args and id(args[0]) in self._raw:
            self.units.normed(self._raw[id(args[0])])
        if not self._equivariant(func, args, kwargs, before, made):
            self._fail(list(nested_tensors.tensors_in((args, kwargs))), name)
            for each in made:
                self._of.pop(id(each), None)

    def _of_parameters(
        self, name: str, func: Any, args: Any, kwargs: Any, given: Sequence[Any], made: list[Any]
    ) -> None:  # fmt: skip
        """A parameter is cut, turned or repeated before it is used: its last axis numbers units of its own."""
        moved = index_tracing.moved(func, args, kwargs, {}, made) if len(given) == 1 and given[0].dim() else None
        if moved is None:
            self._fail(given, name)
            return
        tensor = given[0]
        ids = self.units.numbered(self.names[id(tensor)], tensor.dim() - 1, tensor.shape[-1])
        flat = np.broadcast_to(ids, tensor.shape).reshape(-1)
        for each, index in zip(made, moved, strict=True):
            self._keep(each, _narrow(flat[index]))

    def _fail(self, given: Sequence[Any], name: str) -> None:
        for each in given:
            self.units.fix(self.labels(each), name)
            if id(each) in self.names:
                self.units.lock(self.names[id(each)], name)

    def _equivariant(self, func: Any, args: Any, kwargs: Any, before: Mapping[int, Any], made: list[Any]) -> bool:
        """Is there an axis of each known tensor on which its units can change places, so that those of the results
        do, or nothing does?"""
        known, tensors = list(before), {id(each): each for each in nested_tensors.tensors_in((args, kwargs))}
        labels = {key: self._of[key] for key in known}
        codes = [_narrow(self.units.same(each)) for each in labels.values()]
        choices = [[axis for axis, size in enumerate(each.shape) if size > 1] or [0] for each in codes]
        if any(not each.ndim for each in labels.values()):
            return False
        for axes in itertools.islice(itertools.product(*choices), 16):
            on = dict(zip(known, axes, strict=True))
            cut = {key: rows for key, axis in on.items()
                   if (rows := self._rows(labels[key], before[key].shape, axis)) is not None}  # fmt: skip
            count = min(map(len, cut.values()), default=0)
            if len(cut) < len(known) or any(len(rows) % count for rows in cut.values()):
                continue
            parts = {key: rows.reshape(count, -1) for key, rows in cut.items()}
            if self._probed(func, args, kwargs, before, made, tensors, on, parts):
                return True
        return False

    def _rows(self, labels: Ints, shape: Sequence[int], axis: int) -> Ints | None:
        """(units, ids of each) along an axis, neighbours of the same units together; None where units are scattered."""
        full = np.broadcast_to(labels, (*labels.shape[:axis], shape[axis], *labels.shape[axis + 1 :]))
        rows = np.moveaxis(full, axis, 0).reshape(shape[axis], -1)
        codes = self.units.same(rows)
        new = np.concatenate([[True], (codes[1:] != codes[:-1]).any(1)])
        rows, codes = rows[new], codes[new]
        if shape[axis] % len(rows) or len(set(np.diff(np.flatnonzero(np.concatenate([new, [True]]))))) > 1:
            return None
        seen = np.concatenate([np.unique(row[row >= 0]) for row in codes])
        return rows if len(np.unique(seen)) == len(seen) else None

    def _probed(
        self, func: Any, args: Any, kwargs: Any, before: Mapping[int, Any], made: list[Any],
        tensors: Mapping[int, Any], axes: Mapping[int, int], parts: Mapping[int, Ints],
    ) -> bool:  # fmt: skip
        order = self._shuffled(np.concatenate(list(parts.values()), 1))
        first = next(iter(axes))
        own = self._own(tensors, before, first, axes[first])
        turned = {key: index_tracing.taken(before[key], order, axis) for key, axis in axes.items()}
        turned |= {key: index_tracing.taken(tensors[key], order, axis) for key, axis in own.items()}
        stay = {key: value.clone() for key, value in before.items() if key not in turned}
        try:
            again = list(
                nested_tensors.tensors_in(
                    func(
                        *nested_tensors.replace_tensors(args, {**stay, **turned}),
                        **nested_tensors.replace_tensors(kwargs, {**stay, **turned}),
                    )
                )
            )
        except Exception:  # whatever a function says to other inputs: it is not understood
            return False
        where = [index_tracing.axis_of(one, other, order, axes[first]) for one, other in zip(made, again, strict=True)]
        if any(each is None for each in where):
            return False
        try:
            self.units.tie(list(parts.values()))
        except Conflict:
            return False
        for key, axis in own.items():
            self.units.place(self.names[key], axis, _spread(parts[first], tensors[key].shape[axis]))
        for tensor, to in zip(made, where, strict=True):
            if to is not None and to >= 0:
                self._keep(tensor, self._kept(tensor, to, axes, parts, before))
            else:
                self._of.pop(id(tensor), None)
        return True

    def _kept(
        self, tensor: Any, axis: int, axes: Mapping[int, int], parts: Mapping[int, Ints], before: Mapping[int, Any]
    ) -> Ints:  # fmt: skip
        """Labels of a result: those of an input of its shape, which may tell more than the unit."""
        for key, on in axes.items():
            if on == axis and before[key].shape == tensor.shape:
                return self._of[key]
        return _on(_spread(next(iter(parts.values())), tensor.shape[axis]), tensor.dim(), axis)

    def _own(self, tensors: Mapping[int, Any], before: Mapping[int, Any], key: int, axis: int) -> dict[int, int]:
        """Parameters among the arguments, and the axis of each that lies along an axis of a tensor."""
        found, size = {}, before[key].shape[axis]
        for each, tensor in tensors.items():
            if each not in self.names or each in before or not tensor.dim() or not tensor.is_floating_point():
                continue
            beside = axis - before[key].dim() + tensor.dim()
            fits = [k for k in (beside, 0) if 0 <= k < tensor.dim() and tensor.shape[k] == size]
            if fits:
                found[each] = fits[0]
        return found

    def _shuffled(self, rows: Ints) -> Ints:
        """Another order, in which rows change places only with those in which the same groups meet."""
        order, kinds = np.arange(len(rows)), self.units.kinds(rows)
        for kind in np.unique(kinds):
            inside = np.flatnonzero(kinds == kind)
            drawn = self._rng.permutation(inside)
            order[inside] = drawn if (drawn != inside).any() else inside[::-1]
        return order


def _spread(rows: Ints, size: int) -> Ints:
    """An id of each unit for each of so many entries."""
    return np.repeat(rows.max(1), size // len(rows))


def _on(ids: Ints, dims: int, axis: int) -> Ints:
    """Ids along one axis of a tensor."""
    shape = [1] * dims
    shape[axis] = len(ids)
    return ids.reshape(shape)


def _narrow(labels: Ints) -> Ints:
    """One entry along each axis where nothing changes."""
    for axis in range(labels.ndim):
        first = labels.take([0], axis)
        if (labels == first).all():
            labels = first
    return labels


def _at(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    return kwargs.get(name, args[place] if len(args) > place else default)
