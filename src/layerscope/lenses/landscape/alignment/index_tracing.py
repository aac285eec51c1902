"""Find out by calling a torch function whether it only moves entries, or whether it commutes with permutations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.live.nested_tensors import replace_tensors, tensors_in

if TYPE_CHECKING:
    from layerscope.array_types import Ints

RELATIVE_TOLERANCE = 1e-5  # of the largest entry; results closer than this count as equal, also in float32


@dataclass(frozen=True)
class Call:
    """A completed call of a torch function. Tensors are identified by their ``id``."""

    func: Any
    args: Any
    kwargs: Any
    before: Mapping[int, Any]  # copies of the inputs with known units, made before the call, which may be in place
    results: list[Any]  # the returned tensors

    @property
    def name(self) -> str:
        """Name of the called function."""
        return function_name(self.func)

    @property
    def inputs(self) -> list[Any]:
        """All tensors among the arguments."""
        return list(tensors_in((self.args, self.kwargs)))

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument that may have been passed by position or by name."""
        return self.kwargs.get(name, self.args[position] if len(self.args) > position else default)

    def repeat(self, replacements: Mapping[int, Any]) -> list[Any]:
        """Call the function again with some inputs replaced, and return the resulting tensors."""
        args, kwargs = replace_tensors(self.args, replacements), replace_tensors(self.kwargs, replacements)
        return list(tensors_in(self.func(*args, **kwargs)))


def function_name(func: Any) -> str:
    return str(getattr(func, "__name__", func))


def trace_index_map(call: Call) -> list[Ints] | None:
    """For a function that only moves entries, return the source index of each result entry in the flattened inputs.

    Returns None for functions that compute something.
    """
    import torch

    inputs = [tensor for tensor in call.inputs if tensor.is_floating_point()]
    if not inputs:
        return None
    values = [call.before.get(id(tensor), tensor) for tensor in inputs]
    starts = np.cumsum([0, *(value.numel() for value in values)])
    indices_of_inputs = {
        id(tensor): torch.arange(start, start + value.numel()).reshape(value.shape)
        for tensor, value, start in zip(inputs, values, starts[:-1], strict=True)
    }
    try:
        indices = call.repeat(indices_of_inputs)
    except Exception:  # most functions do not accept integer tensors
        return None
    if len(indices) != len(call.results):
        return None
    flat = torch.cat([value.reshape(-1).double() for value in values])
    index_maps = []
    for index, result in zip(indices, call.results, strict=True):
        index = index.long()
        if not result.is_floating_point() or index.shape != result.shape or not index.numel():
            return None
        if int(index.min()) < 0 or int(index.max()) >= len(flat) or not torch.equal(flat[index], result.double()):
            return None
        index_maps.append(index.numpy())
    return index_maps


def permuted_axis(before: Any, after: Any, order: Ints, likely_axis: int) -> int | None:
    """Return the axis along which a result is permuted, −1 if it is unchanged, and None if it differs otherwise."""
    if before.shape != after.shape or not before.is_floating_point():
        return -1 if before.shape == after.shape and bool((before == after).all()) else None
    largest = float(before.nan_to_num(0, 0, 0).abs().max()) if before.numel() else 0.0
    tolerance = RELATIVE_TOLERANCE * max(largest, 1e-30)
    axes = [k for k in range(before.dim()) if before.shape[k] and before.shape[k] % len(order) == 0]
    for axis in sorted(axes, key=lambda k: k != likely_axis):
        if _is_close(permute_parts(before, order, axis), after, tolerance):
            return axis
    return -1 if _is_close(before, after, tolerance) else None


def _is_close(a: Any, b: Any, tolerance: float) -> bool:
    import torch

    return bool(torch.isclose(a, b, rtol=0.0, atol=tolerance, equal_nan=True).all())


def permute_parts(tensor: Any, order: Ints, axis: int) -> Any:
    """Split an axis into equal parts, one for each element of ``order``, and reorder them."""
    import torch

    part_size = tensor.shape[axis] // len(order)
    index = (np.asarray(order)[:, None] * part_size + np.arange(part_size)).reshape(-1)
    return tensor.index_select(axis, torch.from_numpy(index).to(tensor.device))
