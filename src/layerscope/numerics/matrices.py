"""Convert a tensor with named axes to a stack of matrices (k, n, m) with n ≥ m, and back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from layerscope.numerics.lazy_rows import Rows

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats
    from layerscope.records.layers import LayerRef, Part


def dimensions(ref: LayerRef, conv: str = "slices") -> tuple[int, int, int]:
    """Return the shape (k, n, m) of the stack that :func:`unfold` returns, from the sizes in the header."""
    sizes = dict(zip(ref.axes, ref.shape, strict=True))
    out, into = sizes.pop("o") // ref.groups, sizes.pop("i")
    experts = sizes.pop("e", 1)
    positions = math.prod(sizes.values())
    k = ref.groups * experts
    if conv == "flat" and ref.flipped:
        out *= positions
    elif conv == "flat":
        into *= positions
    else:
        k *= positions
    return (k if ref.slice is None else 1), max(out, into), min(out, into)


def pick(tensor: Array, ref: LayerRef) -> Array:
    """Return the entries of a stored tensor that belong to one layer, given by its expert and its part."""
    if ref.expert is not None:
        tensor = tensor[ref.expert]
    return take(tensor, ref.part)


def take(tensor: Array, part: Part | None) -> Array:
    """Return the entries of a matrix that belong to one part, as a view if possible."""
    if part is None:
        return tensor
    tensor = np.asarray(tensor)
    size = tensor.shape[part.axis]
    blocks = tensor.reshape(
        *tensor.shape[: part.axis], size // part.stride, part.stride, *tensor.shape[part.axis + 1 :]
    )
    window = (slice(None),) * (part.axis + 1) + (slice(part.offset, part.offset + part.length),)
    taken = blocks[window]
    return taken.reshape(*tensor.shape[: part.axis], part.count(size), *tensor.shape[part.axis + 1 :])


def unfold(tensor: Array, ref: LayerRef, conv: str = "slices") -> Array:
    """Return a tensor as a stack (k, n, m), n ≥ m, with one matrix (out, in) per kernel position, group and expert.

    The meaning of the axes comes from ``ref.axes``, never from their sizes. Data is copied only if the order of the
    axes requires it. Lazily computed rows stay lazy if they are the longer side.

    :param conv: "slices" as above; "flat" joins the kernel positions to the input side, which gives one
        (out, in·positions) matrix per group.
    :raises ValueError: the tensor does not have the shape that the header states.
    """
    expected = (ref.rank, ref.rank) if ref.rank else ref.shape
    if tensor.shape != expected:
        raise ValueError(f"{ref.name}: the header states shape {expected}, but the data has shape {tensor.shape}")
    if isinstance(tensor, Rows):
        if ref.axes in ("oi", "io") and ref.groups == 1 and tensor.shape[0] >= tensor.shape[1]:
            return tensor.stack()
        tensor = np.asarray(tensor)
    letters = ref.axes
    positions = [letters.index(a) for a in letters if a not in "oie"]
    experts = [letters.index("e")] if "e" in letters else []
    out, into = letters.index("o"), letters.index("i")
    if conv == "flat" and ref.flipped:  # transposed convolution: join the positions to the output side
        transposed = tensor.transpose(out, *positions, into)
        return _orient_and_select(transposed.reshape(ref.groups, -1, tensor.shape[into]), ref)
    if conv == "flat":
        transposed = tensor.transpose(*experts, out, into, *positions)
        k = math.prod(tensor.shape[a] for a in experts)
        stack = transposed.reshape(k, tensor.shape[out], -1)
    else:
        transposed = tensor.transpose(*experts, *positions, out, into)
        stack = transposed.reshape(-1, tensor.shape[out], tensor.shape[into])
    if ref.groups > 1:
        stack = stack.reshape(-1, stack.shape[1] // ref.groups, stack.shape[2])
    return _orient_and_select(stack, ref)


def _orient_and_select(stack: Array, ref: LayerRef) -> Array:
    """Select the matrix that ``ref.slice`` names, or all matrices, and put the longer side first."""
    if ref.slice is not None:
        stack = stack[ref.slice : ref.slice + 1]
    return stack if stack.shape[1] >= stack.shape[2] else np.swapaxes(stack, 1, 2)


def locate(ref: LayerRef, conv: str, matrix: int, row: int, column: int) -> tuple[int, ...]:
    """Return the index, in the layer's tensor, of one entry of the stack that :func:`unfold` returns."""
    sizes = dict(zip(ref.axes, ref.shape, strict=True))
    positions = [axis for axis in ref.axes if axis not in "oie"]
    out, into = sizes["o"] // ref.groups, sizes["i"]
    joined = math.prod(sizes[axis] for axis in positions) if conv == "flat" else 1
    height, width = (out * joined, into) if ref.flipped else (out, into * joined)
    o, i = (row, column) if height >= width else (column, row)
    matrix = matrix if ref.slice is None else ref.slice
    matrix, group = divmod(matrix, ref.groups)
    index_by_axis: dict[str, int] = {}
    for axis in reversed(positions):
        if conv == "flat" and ref.flipped:
            o, index_by_axis[axis] = divmod(o, sizes[axis])
        elif conv == "flat":
            i, index_by_axis[axis] = divmod(i, sizes[axis])
        else:
            matrix, index_by_axis[axis] = divmod(matrix, sizes[axis])
    index_by_axis["o"] = group * out + o
    leading = () if ref.expert is None else (ref.expert,)
    return (*leading, *(index_by_axis.get(axis, i if axis == "i" else matrix) for axis in ref.axes))


def fold(stack: Array, ref: LayerRef, conv: str = "slices") -> Array:
    """Convert the stack of a layer back to its tensor: the inverse of :func:`unfold`."""
    sizes = dict(zip(ref.axes, ref.shape, strict=True))
    positions = [a for a in ref.axes if a not in "oie"]
    out, into = sizes["o"] // ref.groups, sizes["i"]
    joined = math.prod(sizes[a] for a in positions) if conv == "flat" else 1
    height, width = (out * joined, into) if ref.flipped else (out, into * joined)
    if height < width:
        stack = np.swapaxes(stack, 1, 2)
    flat = ["o", *positions, "i"] if ref.flipped else ["o", "i", *positions]
    order = ["e"] * ("e" in sizes) + (flat if conv == "flat" else [*positions, "o", "i"])
    unfolded = stack.reshape([sizes[a] for a in order])
    tensor: Array = unfolded.transpose([order.index(a) for a in ref.axes])
    return tensor


def put(tensor: Array, ref: LayerRef, picked: Array) -> Array:
    """Replace one layer's entries in a stored tensor, keeping its dtype: the inverse of :func:`pick`."""
    if ref.expert is None:
        return _put(tensor, ref.part, picked)
    tensor[ref.expert] = _put(tensor[ref.expert], ref.part, picked)
    return tensor


def _put(tensor: Array, part: Part | None, taken: Array) -> Array:
    if part is None:
        return np.ascontiguousarray(taken.astype(tensor.dtype))
    size = tensor.shape[part.axis]
    before, after = tensor.shape[: part.axis], tensor.shape[part.axis + 1 :]
    blocks = tensor.reshape(*before, size // part.stride, part.stride, *after)
    window = (slice(None),) * (part.axis + 1) + (slice(part.offset, part.offset + part.length),)
    blocks[window] = taken.reshape(*before, size // part.stride, part.length, *after).astype(tensor.dtype)
    return blocks.reshape(tensor.shape)


def windows(stack: Array, size: int, across: int = 10) -> Array:
    """Return evenly spaced windows of every matrix as a stack (k·rows·columns, 2·size, size).

    :param size: shorter side of a window.
    :param across: maximum number of different positions along each side; FARMS (arXiv 2506.06280) uses 10 × 10.
    """
    _, n, m = stack.shape
    rows = np.unique(np.linspace(0, n - 2 * size, across).astype(int))
    columns = np.unique(np.linspace(0, m - size, across).astype(int))
    return np.concatenate(
        [stack[:, row : row + 2 * size, column : column + size] for row in rows for column in columns]
    )


def low_rank_core(a: Array, b: Array, scale: float) -> Floats:
    """Return an r × r matrix with the singular values of s·B·A: s·R_B·R_Aᵀ from QR decompositions of B and Aᵀ."""
    r_a, r_b = (np.asarray(np.linalg.qr(x.astype(np.float64), mode="r")) for x in (a.T, b))
    with np.errstate(over="ignore", invalid="ignore"):
        core: Floats = scale * (r_b @ r_a.T)
    return core
