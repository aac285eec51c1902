"""Geometry of points, lines and planes in parameter space: Gram matrices, barriers, coordinates, projections."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

BLOCK_ENTRIES = 1 << 15  # entries converted to float64 at a time
MIN_RELATIVE_SQUARE = 1e-6  # squared distances below this share of the squared lengths may be rounding error
MIN_SINE = 1e-6  # sine of an angle below which three points count as collinear
BARRIER_KINDS = ("chord", "mean_ends", "max_ends", "signed")


class Barrier(NamedTuple):
    """Loss barrier between the ends of a curve in parameter space."""

    value: float  # height, in units of the loss
    at: float  # t at the maximum, or at the largest deviation
    kind: str  # one of BARRIER_KINDS


def gram(vectors: list[Array]) -> Floats:
    """Return the inner products ⟨vᵢ, vⱼ⟩ of flat vectors of one length, in float64, computed block by block."""
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
    """Return ‖vᵢ − vⱼ‖² from the Gram matrix, clipped at zero."""
    lengths = np.diagonal(products)
    squares: Floats = np.maximum(lengths[:, None] + lengths[None] - 2 * products, 0.0)
    np.fill_diagonal(squares, 0.0)
    return squares


def unresolved_pairs(products: Floats) -> list[tuple[int, int]]:
    """Return pairs too close to each other for the Gram matrix to resolve their distance."""
    lengths, squares = np.diagonal(products), squared_distances(products)
    near = squares < MIN_RELATIVE_SQUARE * (lengths[:, None] + lengths[None])
    return [(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(near, 1)), strict=True)]


def cosines(products: Floats) -> Floats:
    """Return the cosines of the angles between the vectors; NaN if a vector is zero."""
    lengths = np.sqrt(np.diagonal(products))
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Floats = products / (lengths[:, None] * lengths[None])
    return np.clip(values, -1.0, 1.0)


def barrier(t: Floats, values: Floats, kind: str = "chord") -> Barrier:
    """Return the loss barrier of a curve, from finite values with t between 0 and 1.

    The barrier is NaN if the value at an end or all values between the ends are missing.

    :param t: positions on the curve; the ends are 0 and 1.
    :param values: loss, or another quantity that is better when lower, at each position.
    :param kind: "chord": max L(t) − ((1−t)L(0) + tL(1)) (Entezari et al. 2022); "mean_ends": max L − ½(L(0)+L(1))
        (Frankle et al. 2020); "max_ends": max L − max(L(0), L(1)); "signed": L(t*) − ½(L(0)+L(1)), where t* has the
        largest deviation of either sign.
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
    """Return the largest rise above the running minimum; 0 if the curve only falls (monotone linear interpolation)."""
    finite = values[np.isfinite(values)]
    return float((finite - np.minimum.accumulate(finite)).max(initial=0.0))


def frame(products: Floats) -> tuple[Floats, float]:
    """Return plane coordinates (3, 2) of three points and the angle at the first point, from their Gram matrix.

    Coordinates are in units of the weights and preserve distances; the angle is in degrees. The first point is the
    origin, and the second lies on the first axis.

    :raises ValueError: the points are collinear, or two of them coincide.
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
    """Return the first k principal directions of T centered rows, and their shares of variance (k,).

    Directions are returned as coefficients (k, T); coefficients times rows are unit vectors. They are computed from the
    T × T Gram matrix alone.
    """
    values, vectors = np.linalg.eigh(products)
    order = np.argsort(values)[::-1][:k]
    top = np.maximum(values[order], 0.0)
    shares: Floats = top / max(float(np.maximum(values, 0.0).sum()), np.finfo(float).tiny)
    scale = np.where(top > 0, 1 / np.sqrt(np.maximum(top, np.finfo(float).tiny)), 0.0)
    return (vectors[:, order] * scale).T, shares
