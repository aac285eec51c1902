"""What changed between two tensors W₀ and W: size against rounding noise, rank, and the subspaces of W₀ that remain."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import eigh

from layerscope.numerics.random_matrix import TRACY_WIDOM

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

SHARES = (0.90, 0.95, 0.99)  # of ‖ΔW‖_F², for the rank of an update
TOP = 10  # singular vectors whose subspaces are compared (Shuttleworth et al.)
INTRUDER_COSINE = 0.5  # largest cosine with a singular vector of W₀ below which a vector of W is an intruder
EDGE_MARGIN = 1.3  # noise is not uniform over a matrix, so its largest singular value exceeds that of equal entries
MAX_RESIDUAL = 1.6  # residual of an exact low-rank update, relative to the rounding noise
NOISE_FACTOR = 1.5  # change, relative to the rounding noise, up to which a tensor is equal to its precision
RESOLVED = 1e-7  # of the largest singular value: the resolution of a Gram matrix in float64
CACHED_ENTRIES = 1 << 16  # entries converted to float64 at a time, which fit into the cache of a core
MAX_SHARE_OF_RANK = 0.5  # of the shorter side, up to which an update has a low rank


class Sizes(NamedTuple):
    """Norms of a change; all in units of W."""

    base: float  # ‖W₀‖_F
    change: float  # ‖W − W₀‖_F
    dot: float  # ⟨W, W₀⟩
    tuned: float  # ‖W‖_F
    rows: int  # rows that differ
    rows_of_change: Floats  # ‖ΔW‖ of each row


def sizes(base: Array, tuned: Array) -> Sizes:
    """Return the norms of a change, computed in float64 over blocks of rows."""
    rows = base.shape[0] if base.ndim else 1
    flat_base, flat_tuned = base.reshape(rows, -1), tuned.reshape(rows, -1)
    step = max(1, CACHED_ENTRIES // max(1, flat_base.shape[1]))
    sums, row_sums = np.zeros(3), []
    for start in range(0, rows, step):
        a = np.asarray(flat_base[start : start + step], np.float64)
        b = np.asarray(flat_tuned[start : start + step], np.float64)
        delta = b - a
        row_sums.append(np.einsum("ij,ij->i", delta, delta))
        sums += [np.vdot(a, a), np.vdot(a, b), np.vdot(b, b)]
    squares = np.concatenate(row_sums) if row_sums else np.zeros(0)
    base_norm, dot, tuned_norm = math.sqrt(sums[0]), float(sums[1]), math.sqrt(sums[2])
    return Sizes(base_norm, math.sqrt(squares.sum()), dot, tuned_norm, int(np.count_nonzero(squares)), np.sqrt(squares))


def rank_numbers(values: Floats, noise: float, n: int, m: int) -> dict[str, float]:
    """Return the ranks of an update from its singular values, descending.

    ``rank_90`` to ``rank_99`` are the fewest singular values with that share of ‖ΔW‖_F². ``rank_above`` counts those
    above the largest one that rounding noise gives: σ(√n + √m + TW) with σ = noise/√(nm). ``exact_rank`` is that number
    if the rest of the update is no larger than the noise.
    """
    energy = np.cumsum(np.square(values))
    if not len(energy) or energy[-1] <= 0:
        return {}
    numbers = {f"rank_{round(100 * s)}": float(np.searchsorted(energy, s * energy[-1] * (1 - 1e-12)) + 1)
               for s in SHARES}  # fmt: skip
    edge = max(noise_edge(noise, n, m), RESOLVED * float(values[0]))
    above = int((values > edge).sum())
    numbers["rank_above"] = float(above)
    residual = math.sqrt(max(0.0, float(energy[-1] - (energy[above - 1] if above else 0.0))))
    resolution = RESOLVED * float(values[0]) * math.sqrt(m)
    if 0 < above <= MAX_SHARE_OF_RANK * m and residual <= MAX_RESIDUAL * max(noise, resolution):
        numbers["exact_rank"] = float(above)
    return numbers


def noise_edge(noise: float, n: int, m: int) -> float:
    """Return the largest singular value that noise of a Frobenius norm has in an n×m matrix (Johnstone 2001)."""
    sigma = noise / math.sqrt(n * m)
    root = math.sqrt(n) + math.sqrt(m)
    spread = root * (1 / math.sqrt(n) + 1 / math.sqrt(m)) ** (1 / 3)
    return EDGE_MARGIN * sigma * math.sqrt(root**2 + TRACY_WIDOM[0.001] * spread)


def subspace_numbers(base: Floats, tuned: Floats, largest: float) -> dict[str, float]:
    """Compare the largest singular vectors of W (n, m), n ≥ m, with those of W₀.

    ``relative_spectral_change`` is ``largest``, the largest singular value of ΔW, over that of W₀.
    ``intruders`` counts the 10 largest left singular vectors of W whose largest |cosine| with any left singular vector
    of W₀ is below 0.5. ``intruder_chance`` is that largest cosine for an independent vector. ``overlap_left`` and
    ``overlap_right`` are ‖U₀ᵀU‖_F/√k of the k largest singular vectors of both, with the chance level √(k/n).

    Source: Shuttleworth et al., arXiv 2410.21228; Björck & Golub, Math. Comp. 27 (1973).
    """
    n, m = base.shape
    k = min(TOP, m)
    values, right0 = np.linalg.eigh(base.T @ base)
    _, right = eigh(tuned.T @ tuned, subset_by_index=[m - k, m - 1])
    values, right0 = np.sqrt(np.maximum(values[::-1], 0)), right0[:, ::-1]
    live = values > RESOLVED * values[0]
    left = _normalize(tuned @ right)
    cosines = np.abs((left.T @ base) @ right0[:, live]) / values[live]
    left0 = _normalize(base @ right0[:, :k])
    return {
        "relative_spectral_change": largest / float(values[0]),
        "intruders": float((cosines.max(1) < INTRUDER_COSINE).sum()),
        "intruder_chance": math.sqrt(2 * math.log(max(2, int(live.sum()))) / n),
        "overlap_left": float(np.linalg.norm(left0.T @ left) / math.sqrt(k)),
        "overlap_right": float(np.linalg.norm(right0[:, :k].T @ right) / math.sqrt(k)),
        "overlap_chance": math.sqrt(k / n),
    }


def largest_subspaces(matrix: Floats) -> tuple[Floats, Floats]:
    """Return the 10 largest left and right singular vectors of a matrix (n, m), n ≥ m, as columns."""
    m = matrix.shape[1]
    _, right = eigh(matrix.T @ matrix, subset_by_index=[m - min(TOP, m), m - 1])
    return _normalize(matrix @ right), right


def _normalize(columns: Floats) -> Floats:
    lengths = np.linalg.norm(columns, axis=0)
    unit: Floats = columns / np.where(lengths > 0, lengths, 1.0)
    return unit
