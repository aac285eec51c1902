"""The sizes of single weights, and of the weights of each output and input: zero ones, and ones unlike the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.numerics.lazy_rows import Rows
from layerscope.numerics.matrices import locate
from layerscope.numerics.spectra import median_of

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats
    from layerscope.records.layers import LayerRef

DEAD_NORM = 1e-6  # norm of a unit's weights, relative to the median unit, up to which it is dead
FACTS = (
    "output_units", "dead_output_units", "input_units", "dead_input_units", "output_norm_spread", "input_norm_spread",
    "largest_ratio", "fourth_ratio", "largest_value", "largest_index",
)  # fmt: skip
MIN_RATIO = 10.0  # |w| over the root mean square, from which a weight is called large
ROUNDING_MARGIN = 1.001  # of sums in float32
SAFE_SQUARES = (1e-12, 1e12)  # mean w² for which w⁴ stays in the range of float32
BLOCK_ENTRIES = 1 << 16
Entry = tuple[float, float, tuple[int, int, int]]  # square, value, position in the stack
RANK = 4  # the largest weight is compared with the one of this rank


def unit_norms(stack: Array, ref: LayerRef, conv: str) -> dict[str, float]:
    """Return the numbers of outputs and inputs of a layer, those without any weight, and the spread of their norms.

    The spread is the variance of the squared norms over that of independent, identically distributed entries with the
    same second and fourth moments: r(m₄ − m₂²) for units of r weights. Further: the largest weight and the fourth
    largest, in units of the root mean square of all (0 if none is above 10), its value, and its index in the flattened
    tensor.

    :param stack: the layer as :func:`~layerscope.numerics.matrices.unfold` returns it with this ``conv``.
    :returns: empty for groups, experts in one tensor, single matrices of a layer and products, where a row is not a
        unit of the layer, and for lazily computed rows, which would be decoded twice.
    """
    is_part = ref.groups > 1 or "e" in ref.axes or ref.slice is not None
    if is_part or ref.rank or ref.symmetric or isinstance(stack, Rows):
        return {}
    row_squares, columns, row_fourths = _sums(stack)
    outputs, inputs = _sums_by_unit(row_squares.sum(axis=0), columns, ref)
    mean_square = float(outputs.sum()) / stack.size
    largest = (0.0, 0.0, 0.0, -1.0)
    top = _largest_entries(stack, row_fourths, MIN_RATIO**2 * mean_square) if mean_square > 0 else []
    if top:
        ratios = [(square / mean_square) ** 0.5 for square, _, _ in top] + [0.0] * RANK
        place = locate(ref, conv, *top[0][2])[-len(ref.shape) :]  # without the number of the expert
        largest = (ratios[0], ratios[RANK - 1], top[0][1], float(np.ravel_multi_index(place, ref.shape)))
    counts = (len(outputs), _count_dead(outputs), len(inputs), _count_dead(inputs))
    fourth_moment = float(row_fourths.sum())
    spreads = (_spread(squares, fourth_moment, stack.size) for squares in (outputs, inputs))
    return dict(zip(FACTS, map(float, (*counts, *spreads, *largest)), strict=True))


def _sums(stack: Array, dtype: type[np.floating[Any]] = np.float32) -> tuple[Floats, Floats, Floats]:
    """Return Σw² of each row (k, n), Σw² of each column (m) over all matrices, and Σw⁴ of each row (k, n).

    Blocks fit into the cache. Their arithmetic is float32, unless the weights are more precise or w⁴ leaves its range.
    """
    k, n, m = stack.shape
    dtype = np.float64 if stack.dtype.itemsize > np.dtype(dtype).itemsize else dtype
    squares_by_row, fourths_by_row, columns = np.zeros((k, n)), np.zeros((k, n)), np.zeros(m)
    step = max(1, BLOCK_ENTRIES // m)
    for i in range(k):
        for start in range(0, n, step):
            block = slice(start, start + step)
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                squares = np.square(stack[i, block].astype(dtype, copy=False))
                squares_by_row[i, block] = squares.sum(axis=1)
                fourths_by_row[i, block] = np.einsum("ij,ij->i", squares, squares)
                columns += squares.sum(axis=0)
    mean_square = float(columns.sum()) / stack.size
    is_in_range = SAFE_SQUARES[0] < mean_square < SAFE_SQUARES[1] and bool(np.isfinite(fourths_by_row).all())
    if dtype is np.float32 and not is_in_range:
        return _sums(stack, np.float64)
    return squares_by_row, columns, fourths_by_row


def _largest_entries(stack: Array, row_fourths: Floats, min_square: float) -> list[Entry]:
    """Return the ``RANK`` largest entries whose square exceeds a limit, largest first.

    No square in a row exceeds √(Σw⁴), so only rows that can hold one of the largest are read again.
    """
    bounds = np.sqrt(row_fourths.ravel() * ROUNDING_MARGIN)
    candidates = np.flatnonzero(bounds > min_square)
    top: list[Entry] = []
    for place in candidates[np.argsort(-bounds[candidates])]:
        if len(top) == RANK and bounds[place] < top[-1][0]:
            break
        number, row = divmod(int(place), stack.shape[1])
        values = np.asarray(stack[number, row], np.float64)
        squares = np.square(values)
        columns = [int(column) for column in np.argsort(squares)[-RANK:] if squares[column] > min_square]
        found = [(float(squares[column]), float(values[column]), (number, row, column)) for column in columns]
        top = sorted([*top, *found], reverse=True)[:RANK]
    return top


def _sums_by_unit(rows: Floats, columns: Floats, ref: LayerRef) -> tuple[Floats, Floats]:
    """Return sums by output and by input from those of the rows and columns of an unfolded stack.

    The longer side of the stack is its rows, and ``conv="flat"`` joins the kernel positions to one of the sides.
    """
    sizes = dict(zip(ref.axes, ref.shape, strict=True))
    out, into = sizes["o"], sizes["i"]
    positions = len(rows) * len(columns) // (out * into)
    is_turned = out * (positions if ref.flipped else 1) < into * (1 if ref.flipped else positions)
    outputs, inputs = (columns, rows) if is_turned else (rows, columns)
    return outputs.reshape(out, -1).sum(axis=1), inputs.reshape(into, -1).sum(axis=1)


def _spread(squared_norms: Floats, fourth: float, size: int) -> float:
    """Return the variance of squared norms, relative to that of independent entries; 0 if it is not defined."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        per_unit = size / len(squared_norms)
        expected = per_unit * (fourth / size - (squared_norms.sum() / size) ** 2)
        spread = float(squared_norms.var() / expected) if expected > 0 else 0.0
    return spread if np.isfinite(spread) else 0.0


def _count_dead(squared_norms: Floats) -> int:
    alive = np.sort(squared_norms[squared_norms > 0])
    if not len(alive):
        return len(squared_norms)
    return int((squared_norms <= DEAD_NORM**2 * median_of(alive)).sum())
