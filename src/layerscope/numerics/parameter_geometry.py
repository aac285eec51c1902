"""Points, lines and planes of parameter space as numbers: Gram matrices, barriers, frames, projections."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

BLOCK_ENTRIES = 1 << 15  # entries converted to float64 at a time
MIN_RELATIVE_SQUARE = 1e-6  # of squared lengths: below it a distance from a Gram matrix is rounding
MIN_SINE = 1e-6  # sine of an angle below which three points lie on a line
BARRIER_KINDS = ("chord", "mean_ends", "max_ends", "signed")


class Barrier(NamedTuple):
    """The barrier between the ends of a curve of a loss."""

    value: float
    at: float  # t of the top, or of the largest deviation
    kind: str


def gram(vectors: list[Array]) -> Floats:
    """⟨vᵢ, vⱼ⟩ of flat vectors of one length, in float64, a block at a time."""
    total = np.zeros((len(vectors), len(vectors)))
    size = vectors[0].size
    buffer = np.empty((len(vectors), min(BLOCK_ENTRIES, size)))
    for start in range(0, size, BLOCK_ENTRIES):
        block = buffer[:, : min(BLOCK_ENTRIES, size - start)]
        for row, vector in zip(block, vectors, strict=True):
            row[:] = vector[start : start + BLOCK_ENTRIES]
        total += block @ block.T
    return total


def squared_distances(products: Floats) -> Floats:
    """‖vᵢ − vⱼ‖² from the Gram matrix, clipped at zero."""
    lengths = np.diagonal(products)
    squares: Floats = np.maximum(lengths[:, None] + lengths[None] - 2 * products, 0.0)
    np.fill_diagonal(squares, 0.0)
    return squares


def unresolved_pairs(products: Floats) -> list[tuple[int, int]]:
    """Pairs so near each other that the Gram matrix no longer tells their distance."""
    lengths, squares = np.diagonal(products), squared_distances(products)
    near = squares < MIN_RELATIVE_SQUARE * (lengths[:, None] + lengths[None])
    return [(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(near, 1)), strict=True)]


def cosines(products: Floats) -> Floats:
    """Cosines of the angles; NaN beside a vector of zeros."""
    lengths = np.sqrt(np.diagonal(products))
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Floats = products / (lengths[:, None] * lengths[None])
    return np.clip(values, -1.0, 1.0)


def barrier(t: Floats, values: Floats, kind: str = "chord") -> Barrier:
    """The barrier of a curve that is better when lower; only its part between 0 and 1 and finite values count.

    "chord": max L(t) − ((1−t)L(0) + tL(1)) (Entezari et al. 2022); "mean_ends": max L − ½(L(0)+L(1)) (Frankle et al.
    2020); "max_ends": max L − max of both; "signed": L(t*) − ½(L(0)+L(1)), t* of the largest deviation of either sign.
    NaN where an end is missing, or all that lies between.
    """
    inside = (t >= 0) & (t <= 1) & np.isfinite(values)
    t, values = t[inside], values[inside]
    ends = [values[np.isclose(t, end)] for end in (0.0, 1.0)]
    if not all(len(end) for end in ends) or len(t) < 3:
        return Barrier(math.nan, math.nan, kind)
    first, last = (float(end[0]) for end in ends)
    baseline = {
        "chord": (1 - t) * first + t * last,
        "max_ends": np.full_like(t, max(first, last)),
    }.get(kind, np.full_like(t, (first + last) / 2))
    above = values - baseline
    top = int(np.abs(above).argmax() if kind == "signed" else above.argmax())
    return Barrier(float(above[top]), float(t[top]), kind)


def monotone_rise(values: Floats) -> float:
    """Largest rise over the running minimum: 0 where a curve only falls (monotone linear interpolation)."""
    finite = values[np.isfinite(values)]
    return float((finite - np.minimum.accumulate(finite)).max(initial=0.0))


def frame(products: Floats) -> tuple[Floats, float]:
    """(coordinates (3, 2) of three points in weight units, angle at the first in degrees) from their Gram matrix.

    The first is the origin, the second lies on the first axis: isometric to the plane through them.

    :raises ValueError: the three lie on a line, or two of them are one.
    """
    squares = squared_distances(products)
    b, c = math.sqrt(squares[0, 1]), math.sqrt(squares[0, 2])
    if b == 0 or c == 0:
        raise ValueError("two of the points are the same")
    along = (squares[0, 1] + squares[0, 2] - squares[1, 2]) / (2 * b)
    cosine = max(-1.0, min(1.0, along / c))
    sine = math.sqrt(1 - cosine**2)
    if sine < MIN_SINE:
        raise ValueError("the points lie on a line")
    return np.array([[0.0, 0.0], [b, 0.0], [along, c * sine]]), math.degrees(math.acos(cosine))


def principal(products: Floats, k: int = 2) -> tuple[Floats, Floats]:
    """(combinations (k, T) of T centred rows that are the first principal directions, shares of variance (k,)).

    From their T × T Gram matrix, never from the rows themselves; rows of the result times the rows are unit vectors.
    """
    values, vectors = np.linalg.eigh(products)
    order = np.argsort(values)[::-1][:k]
    top = np.maximum(values[order], 0.0)
    shares: Floats = top / max(float(np.maximum(values, 0.0).sum()), np.finfo(float).tiny)
    scale = np.where(top > 0, 1 / np.sqrt(np.maximum(top, np.finfo(float).tiny)), 0.0)
    return (vectors[:, order] * scale).T, shares
