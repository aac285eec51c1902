"""What a torch function does with entries of its inputs: only move them, or keep pace when they change places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.live.nested_tensors import replace_tensors, tensors_in

if TYPE_CHECKING:
    from layerscope.array_types import Ints

CLOSE = 1e-5  # of the largest entry: two results that are one, float32 among them


def moved(func: Any, args: Any, kwargs: Any, before: Mapping[int, Any], made: list[Any]) -> list[Ints] | None:
    """Of a function that only moves entries: from where each of its results' is, in all its inputs one after the other;
    None of others."""
    import torch

    inputs = [each for each in tensors_in((args, kwargs)) if each.is_floating_point()]
    if not inputs:
        return None
    values = [before.get(id(each), each) for each in inputs]
    starts = np.cumsum([0, *(each.numel() for each in values)])
    numbers = {
        id(each): torch.arange(start, start + value.numel()).reshape(value.shape)
        for each, value, start in zip(inputs, values, starts[:-1], strict=True)
    }
    try:
        found = list(tensors_in(func(*replace_tensors(args, numbers), **replace_tensors(kwargs, numbers))))
    except Exception:  # most functions take no whole numbers
        return None
    flat = torch.cat([value.reshape(-1).double() for value in values])
    indices = []
    for index, tensor in zip(found, made, strict=True):
        index = index.long()
        if not tensor.is_floating_point() or index.shape != tensor.shape or not index.numel():
            return None
        if int(index.min()) < 0 or int(index.max()) >= len(flat) or not torch.equal(flat[index], tensor.double()):
            return None
        indices.append(index.numpy())
    return indices if len(found) == len(made) else None


def axis_of(one: Any, other: Any, order: Ints, first: int) -> int | None:
    """The axis on which a result's parts are in the new order; −1 where it is the same, None where it is another."""
    if one.shape != other.shape or not one.is_floating_point():
        return -1 if one.shape == other.shape and bool((one == other).all()) else None
    close = CLOSE * max(float(one.nan_to_num(0, 0, 0).abs().max()) if one.numel() else 0.0, 1e-30)
    axes = [k for k in range(one.dim()) if one.shape[k] and one.shape[k] % len(order) == 0]
    for axis in sorted(axes, key=lambda k: k != first):
        if _same(taken(one, order, axis), other, close):
            return axis
    return -1 if _same(one, other, close) else None


def _same(one: Any, other: Any, close: float) -> bool:
    import torch

    return bool(torch.isclose(one, other, rtol=0.0, atol=close, equal_nan=True).all())


def taken(tensor: Any, order: Ints, axis: int) -> Any:
    """Its equal parts along an axis in another order."""
    import torch

    each = tensor.shape[axis] // len(order)
    index = (np.asarray(order)[:, None] * each + np.arange(each)).reshape(-1)
    return tensor.index_select(axis, torch.from_numpy(index).to(tensor.device))
