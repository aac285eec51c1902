"""The sizes of single weights, and of the weights of each output and input: zero ones, and ones unlike the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerscope.numerics.lazy_rows import Rows
from layerscope.numerics.matrices import locate
from layerscope.numerics.spectra import BLOCK_ENTRIES, median_of

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats
    from layerscope.records.layers import LayerRef

DEAD_NORM = 1e-6  # norm of a unit's weights, relative to the median unit, up to which it is dead
FACTS = (
    "output_units", "dead_output_units", "input_units", "dead_input_units", "output_norm_spread", "input_norm_spread",
    "largest_ratio", "fourth_ratio", "largest_value", "largest_index",
)  # fmt: skip
CANDIDATE_RATIO = 100.0  # squares above this multiple of their block's mean can be among the largest of the layer
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
    rows, columns, fourth_moment, top = _sums(stack)
    outputs, inputs = _sums_by_unit(rows, columns, ref)
    largest = (0.0, 0.0, 0.0, -1.0)
    mean_square = float(outputs.sum()) / stack.size
    if top and mean_square > 0:
        ratios = [(square / mean_square) ** 0.5 for square, _, _ in top] + [0.0] * RANK
        place = locate(ref, conv, *top[0][2])[-len(ref.shape) :]  # without the number of the expert
        largest = (ratios[0], ratios[RANK - 1], top[0][1], float(np.ravel_multi_index(place, ref.shape)))
    counts = (len(outputs), _count_dead(outputs), len(inputs), _count_dead(inputs))
    spreads = (_spread(squares, fourth_moment, stack.size) for squares in (outputs, inputs))
    return dict(zip(FACTS, map(float, (*counts, *spreads, *largest)), strict=True))


def _sums(stack: Array) -> tuple[Floats, Floats, float, list[Entry]]:
    """Return the sums of squares of each row and each column over all matrices, Σw⁴, and the largest entries."""
    rows, columns, fourth = np.zeros(stack.shape[1]), np.zeros(stack.shape[2]), 0.0
    step = max(1, BLOCK_ENTRIES // stack.shape[2])
    top: list[Entry] = []
    for number, matrix in enumerate(stack):
        for start in range(0, stack.shape[1], step):
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                squares = np.square(matrix[start : start + step].astype(np.float64))
                fourth += float(np.square(squares).sum())
            rows[start : start + step] += squares.sum(axis=1)
            columns += squares.sum(axis=0)
            top = sorted([*top, *_largest(matrix, squares, number, start)], reverse=True)[:RANK]
    return rows, columns, fourth, top


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


def _largest(matrix: Array, squares: Floats, number: int, start: int) -> list[Entry]:
    """Return the largest entries of a block of rows, if they are far larger than the others."""
    with np.errstate(over="ignore"):
        candidates = np.flatnonzero(squares > CANDIDATE_RATIO * squares.mean())
    if len(candidates) > RANK:
        candidates = candidates[np.argpartition(squares.ravel()[candidates], -RANK)[-RANK:]]
    places = [divmod(int(place), squares.shape[1]) for place in candidates]
    return [
        (float(squares[row, column]), float(matrix[start + row, column]), (number, start + row, column))
        for row, column in places
    ]


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
