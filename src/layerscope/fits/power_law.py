"""The power law p(λ) ∝ λ^−α for λ ≥ xmin: maximum likelihood for α, Kolmogorov–Smirnov for xmin."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from layerscope.errors import Absent
from layerscope.fits import family
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit

if TYPE_CHECKING:
    from layerscope.array_types import Floats, Ints
    from layerscope.settings import Settings

PROBE_RANKS = 24  # points at which every candidate is tested before a full test
BLOCK_ENTRIES = 1 << 18  # most entries of one block of full tests
EQUAL_EIGENVALUES = 1.05  # λmax/λmin of an orthogonal matrix, rounded to bfloat16 or to 8 bits
EFFECTIVE_TAIL_SHARE = 0.75  # effective share of a tail's values after xmin is chosen by the same values
NEAR_BEST = 2.25  # D, relative to the smallest D, up to which a tail belongs to the range of α (docs: How certain α is)
MAX_RANGE_KS = 1.8  # Stephens' statistic above which a tail does not belong to the range of α
MIN_RANGE_TAIL = 20  # fewest eigenvalues of a tail of the range, unless the best tail has fewer
MAX_RANGE_TAILS = 256  # most tails that are tried for the range


class Tail(NamedTuple):
    """A power law fitted to the largest of some sorted values."""

    alpha: float
    start: int  # index of xmin in the sorted values
    ks: float  # Kolmogorov–Smirnov distance D


@family("power_law", ref="Clauset, Shalizi & Newman, SIAM Rev. 51 (2009), eq. 3.1 and §3.3")
def power_law(spectrum: Spectrum, settings: Settings) -> Fit:
    """Continuous power-law tail, fitted by maximum likelihood.

    Every eigenvalue above the floor of the spectrum is a candidate xmin if it leaves at least ``min_tail`` values. For
    a tail of n values, α = 1 + n / Σ ln(λ/xmin). The first candidate with the smallest Kolmogorov–Smirnov distance D is
    chosen (``best_tail``). σ = (α−1)/√n.

    ``alpha_low`` and ``alpha_high`` are the range of α: see :func:`alpha_range`.
    """
    values = fittable_eigenvalues(spectrum, settings)
    logs = np.log(values)
    dropped, raw = 0, best_tail(logs, settings.min_tail, xmin_window(logs, settings))
    tail = raw
    if settings.fix_fingers == "clip_xmax":
        dropped, tail = clip_fingers(logs, raw, settings)
    fitted = values[: len(values) - dropped]
    n = len(fitted) - tail.start
    low, high = alpha_range(logs[: len(fitted)], tail, settings)
    return Fit(
        "power_law",
        ok=True,
        params={
            "alpha": tail.alpha,
            "alpha_low": low,
            "alpha_high": high,
            "sigma": (tail.alpha - 1) / math.sqrt(n),
            "xmin": float(fitted[tail.start]),
            "xmax": float(fitted[-1]),
            "ks": tail.ks,
            "n_tail": n,
            "spikes": len(spectrum.evals)
            - settings.drop_top
            - int(np.searchsorted(spectrum.evals, fitted[tail.start])),
            "hill": hill(logs),
            "raw_alpha": raw.alpha,
            "fingers": dropped,
        },
    )


def fittable_eigenvalues(spectrum: Spectrum, settings: Settings) -> Floats:
    """Return the eigenvalues that a tail may be fitted to: those above the floor, or above the absolute ``null_cut``.

    :raises Absent: if there are fewer than ``min_evals``, or if all are equal.
    """
    evals = spectrum.evals
    if spectrum.n == 1 and spectrum.k > 1:
        raise Absent("1×1 matrices: single weights have no spectrum")
    if spectrum.m == 1 and spectrum.k > 1 and settings.null_cut is None:
        raise Absent("single columns: each has one eigenvalue, and pooled norms are no spectrum")
    if len(evals) < settings.min_evals:
        raise Absent(f"{len(evals)} eigenvalues, fewer than min_evals = {settings.min_evals}")
    values = spectrum.live if settings.null_cut is None else evals[evals > settings.null_cut]
    if len(values) < max(settings.min_evals, settings.min_tail):
        raise Absent(f"only {len(values)} of {len(evals)} eigenvalues are above zero to the weights' precision")
    values = values[: len(values) - settings.drop_top]
    if len(values) < settings.min_tail:
        raise Absent(f"only {len(values)} eigenvalues are left without the {settings.drop_top} largest")
    if values[-1] <= values[0] * (1 + 1e-9):
        raise Absent("all eigenvalues are equal")
    if settings.null_cut is None and values[-1] <= values[0] * EQUAL_EIGENVALUES:
        raise Absent("the eigenvalues are nearly equal, as of an orthogonal matrix: there is no tail")
    return values


def histogram_peak(logs: Floats) -> float:
    """Return the left edge of the fullest of 100 equal bins of ln λ, where the E_TPL tail begins."""
    counts, edges = np.histogram(logs, bins=100)
    return float(edges[counts.argmax()])


def xmin_window(logs: Floats, settings: Settings) -> tuple[float, float] | None:
    """Return the range of ln xmin with ``fix_fingers="xmin_peak"``: 0.95 to 1.5 times the peak of the histogram."""
    if settings.fix_fingers != "xmin_peak":
        return None
    peak = histogram_peak(logs)
    high = peak + math.log(1.5) if settings.xmin_max is None else math.log(max(settings.xmin_max, 1e-300))
    return peak + math.log(0.95), high


def best_tail(logs: Floats, min_tail: int, window: tuple[float, float] | None = None) -> Tail:
    """Return the tail with the smallest KS distance among all tails of at least ``min_tail`` values; ``logs`` ascend.

    ``window`` limits ln xmin.

    The search is exact without a full test of every candidate. D at a few probe points is a lower bound of each
    candidate's D. Candidates are then tested in blocks, best bound first, until no bound is below the best D found.
    """
    starts, sizes, slopes = _candidate_tails(logs, min_tail)
    if window is not None:
        inside = (logs[starts] >= window[0]) & (logs[starts] <= window[1])
        starts, sizes, slopes = starts[inside], sizes[inside], slopes[inside]
    if not len(starts):
        raise Absent("all eigenvalues are equal" if window is None else "no tail begins in the range of xmin")
    bounds = _distance_bounds(logs, starts, sizes, slopes)
    order = np.argsort(bounds, kind="stable")
    best = Tail(math.nan, -1, math.inf)
    tested, step = 0, 8
    while tested < len(order) and bounds[order[tested]] <= best.ks:
        chosen = np.sort(order[tested : tested + step])
        distances = _ks_distances(logs, starts[chosen], slopes[chosen])
        i = int(distances.argmin())
        candidate = Tail(float(slopes[chosen[i]]) + 1, int(starts[chosen[i]]), float(distances[i]))
        if (candidate.ks, candidate.start) < (best.ks, best.start):
            best = candidate
        tested += step
        step = max(8, min(4 * step, BLOCK_ENTRIES // len(logs)))
    return best


def scan_tails(logs: Floats, min_tail: int, max_tails: int = 0, log_xmin: float = 0.0) -> tuple[Floats, Floats, Floats]:
    """Return ln xmin, α and D of every candidate tail, as a plot of the search shows them.

    With ``max_tails``, at most that many evenly spread candidates are returned, including the one that begins at
    ``log_xmin``.
    """
    starts, _, slopes = _candidate_tails(logs, min_tail)
    if max_tails and len(starts) > max_tails:
        best = min(int(np.searchsorted(logs[starts], log_xmin)), len(starts) - 1)
        chosen = np.unique([*np.linspace(0, len(starts) - 1, max_tails).round().astype(int), best])
        starts, slopes = starts[chosen], slopes[chosen]
    step = max(1, BLOCK_ENTRIES // len(logs))
    blocks = [slice(i, i + step) for i in range(0, len(starts), step)]
    distances = np.concatenate([_ks_distances(logs, starts[b], slopes[b]) for b in blocks])
    return logs[starts], slopes + 1, distances


def clip_fingers(logs: Floats, raw: Tail, settings: Settings) -> tuple[int, Tail]:
    """Return the number k of isolated large values, and the tail without them.

    k is the smallest number that lowers α by more than ``finger_thresh``.

    Nothing is removed if α reaches 2 or less without such a decrease, or after ``max_fingers``. Such isolated large
    eigenvalues ("fingers") are an artifact of the finite size of a layer: a few values in a row that steepen the tail
    (Martin & Mahoney, JMLR 22(165)).
    """
    for k in range(1, min(settings.max_fingers, len(logs) - settings.min_tail - 1) + 1):
        tail = best_tail(logs[:-k], settings.min_tail)
        if tail.alpha + settings.finger_thresh < raw.alpha:
            return k, tail
        if tail.alpha <= 2:
            break
    return 0, raw


def hill(logs: Floats) -> float:
    """Return the Hill estimate with the upper half as tail: α = 1 + k / Σ_{i≤k} ln(λ_{n−i+1}/λ_{n−k}), k = ⌊n/2⌋."""
    k = len(logs) // 2
    excess = float((logs[-k:] - logs[-k - 1]).sum())
    return 1 + k / excess if excess > 0 else math.nan


def alpha_range(logs: Floats, tail: Tail, settings: Settings) -> tuple[float, float]:
    """Return the range of α: the union of the intervals of every tail that fits nearly as well as the best one.

    Nearly as well means a distance D of at most 2.25 times the smallest, and a Stephens' statistic of at most 1.8 (or
    that of the best tail). The intervals are those of :func:`alpha_interval` for three quarters of the values of a
    tail, because choosing xmin by the same values increases the variance of α̂ as if a quarter of the tail were
    missing. With ``confidence`` 0.9, the range contains the exponent of 95 % of the matrices that chose these limits,
    and of 84 % of other constructions and sizes.
    """
    log_xmins, alphas, distances = scan_tails(logs, settings.min_tail, MAX_RANGE_TAILS, float(logs[tail.start]))
    sizes = len(logs) - np.searchsorted(logs, log_xmins)
    near = (distances <= NEAR_BEST * tail.ks) & (sizes >= min(MIN_RANGE_TAIL, len(logs) - tail.start))
    near &= modified_ks(distances, sizes) <= max(MAX_RANGE_KS, modified_ks(tail.ks, len(logs) - tail.start))
    window = xmin_window(logs, settings)
    if window is not None:
        near &= (log_xmins >= window[0]) & (log_xmins <= window[1])
    alphas, sizes = np.append(alphas[near], tail.alpha), np.append(sizes[near], len(logs) - tail.start)
    low, high = alpha_interval(alphas, np.asarray(EFFECTIVE_TAIL_SHARE * sizes, np.float64), settings.confidence)
    return float(low.min()), float(high.max())


def alpha_interval(alpha: Floats, n: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Return the equal-tailed interval of α for tails of n values starting at xmin: (α̂−1)·χ²_{2(n−1)}/(2n) + 1.

    For a known xmin that is one of the values, 2n(α−1)/(α̂−1) is χ²-distributed with 2(n−1) degrees of freedom, because
    the other log-excesses are exponential. This assumes independent draws, but eigenvalues repel each other.
    """
    tail = (1 - confidence) / 2
    low, high = (1 + (alpha - 1) * chi2_quantile(p, 2 * (n - 1)) / (2 * n) for p in (tail, 1 - tail))
    return low, high


def chi2_quantile(probability: float, freedom: Floats) -> Floats:
    """Return a χ² quantile by the approximation of Wilson & Hilferty (1931).

    From 20 degrees of freedom on, it is accurate within 0.1 % at 5 and 95 %, and within 0.7 % at 0.5 and 99.5 %.
    """
    from statistics import NormalDist

    z = NormalDist().inv_cdf(probability)
    c = 2 / (9 * freedom)
    quantile: Floats = freedom * (1 - c + z * np.sqrt(c)) ** 3
    return quantile


def modified_ks(ks: Any, n: Any) -> Any:
    """Return Stephens' statistic (D − 0.2/n)(√n + 0.26 + 0.5/√n) for exponentiality with a fitted mean.

    The log-excesses of a power-law tail are exponential. Choosing xmin makes D smaller: in simulated tails of true
    power laws, the 99 % point falls from 1.308 to 0.85–0.98 (spectra of 50–1,000 eigenvalues). The test is weak,
    because most half-normal or lognormal tails of that size pass it. Likelihood ratios detect more.
    """
    root = np.sqrt(n)
    return (ks - 0.2 / n) * (root + 0.26 + 0.5 / root)


def _candidate_tails(logs: Floats, min_tail: int) -> tuple[Ints, Ints, Floats]:
    """Return start, size and α − 1 of every tail of at least ``min_tail`` values; equal values start a single tail."""
    starts = np.arange(len(logs) - min_tail + 1)
    sizes = len(logs) - starts
    heads = logs[: len(starts)]
    excess = np.cumsum(logs[::-1])[::-1][: len(starts)] - sizes * heads
    keep = (excess > 1e-12 * sizes) & (np.diff(heads, prepend=-np.inf) > 0)
    return starts[keep], sizes[keep], sizes[keep] / excess[keep]


def _distance_bounds(logs: Floats, starts: Ints, sizes: Ints, slopes: Floats) -> Floats:
    """Return a lower bound of D for each candidate, from ``PROBE_RANKS`` ranks spread over its tail."""
    ranks = np.arange(PROBE_RANKS) * (sizes[:, None] - 1) // (PROBE_RANKS - 1)
    model = np.exp(slopes[:, None] * (logs[starts, None] - logs[starts[:, None] + ranks]))
    bounds: Floats = np.abs(1.0 - model - ranks / sizes[:, None]).max(axis=1)
    return bounds


def _ks_distances(logs: Floats, starts: Ints, slopes: Floats) -> Floats:
    """Return D = max_j |F(x_j) − j/n|, j = 0..n−1, F(x) = 1 − (x/xmin)^{1−α}, for ascending ``starts``.

    The empirical distribution is taken from below at each step, as in Clauset's plfit and in powerlaw. The two-sided
    distance is at most 1/n larger.
    """
    first = int(starts[0])
    ranks = np.arange(first, len(logs)) - starts[:, None]
    gap = np.exp(slopes[:, None] * (logs[starts, None] - logs[first:]), where=ranks >= 0, out=np.ones(ranks.shape))
    gap += ranks / (len(logs) - starts)[:, None]
    gap -= 1.0
    np.abs(gap, out=gap)
    gap[ranks < 0] = 0.0
    best: Floats = gap.max(axis=1)
    return best
