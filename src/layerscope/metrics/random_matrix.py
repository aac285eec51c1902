"""Comparison of a layer with a random matrix: its bulk, and shuffles of its own entries."""

from __future__ import annotations

import statistics
from itertools import combinations
from typing import TYPE_CHECKING

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.metrics.references import HTSR
from layerscope.numerics.similarity import jensen_shannon
from layerscope.numerics.spectrum import Mode, Spectrum
from layerscope.records.layers import Fit, Measurement

if TYPE_CHECKING:
    from layerscope.array_types import Floats

MP = "Marchenko & Pastur 1967"
TRAPS = "Martin et al., arXiv 2506.04434 (correlation traps)"
MIN_CARRIED_SHARE = 0.1  # share of an eigenvector that a single weight must carry to be named
MAX_NAMED_ENTRIES = 3  # most entries of traps that are listed


@metric(unit="W", ref=MP, over_layers="")
def sigma_mp(marchenko_pastur: Fit) -> float:
    """Standard deviation σ of random entries that give the same bulk, without spikes; the bulk ends at σ²(√N+√M)²."""
    return marchenko_pastur.params["sigma"]


@metric(unit="W²", ref=MP, over_layers="")
def bulk_min(marchenko_pastur: Fit) -> float:
    """Lower edge of the Marchenko–Pastur bulk, σ²(√N−√M)²."""
    return marchenko_pastur.params["bulk_min"]


@metric(unit="W²", ref=MP, over_layers="")
def bulk_max(marchenko_pastur: Fit) -> float:
    """Upper edge of the Marchenko–Pastur bulk, σ²(√N+√M)²."""
    return marchenko_pastur.params["bulk_max"]


@metric(unit="", ref=MP, fmt=".3f")
def mp_ks(marchenko_pastur: Fit) -> float:
    """Kolmogorov–Smirnov distance of the bulk to the Marchenko–Pastur law: up to 0.1 the bulk looks random."""
    return marchenko_pastur.params["ks"]


@metric(unit="", ref=f"{HTSR}, §3 (MP soft rank)", fmt=".3f")
def mp_softrank(weight: Spectrum, marchenko_pastur: Fit) -> float:
    """Upper edge of the bulk over λmax: 1 for a random matrix, near 0 if a few directions dominate."""
    return _relative_to_largest(marchenko_pastur.params["bulk_max"], float(weight.evals[-1]))


@metric(unit="", ref="Johnstone, Ann. Statist. 29 (2001); Ma, Bernoulli 18 (2012)", over_layers="", fmt="d")
def num_spikes(marchenko_pastur: Fit) -> int:
    """Number of eigenvalues beyond the Tracy–Widom edge of the bulk; a random layer has any in at most 1 % of cases."""
    return int(marchenko_pastur.params["spikes"])


@metric(unit="", ref="Martin, Peng & Mahoney, arXiv 2106.00734 (rand_distance)", fmt=".3f", label="rand.d")
def rand_distance(weight: Spectrum, shuffles: list[Measurement]) -> float:
    """Distance (√JSD) between the spectrum and that of shuffled entries, mean over the shuffles.

    JSD is the Jensen–Shannon divergence of the sorted spectra, each divided by its sum. Compare it with rand_null.
    """
    return statistics.fmean(_distances_to_shuffles(weight, shuffles))


@metric(unit="", ref="standard deviation over Settings.shuffles", fmt=".4f", over_layers="")
def rand_distance_sd(weight: Spectrum, shuffles: list[Measurement]) -> float:
    """Standard deviation of rand_distance over the shuffles."""
    if len(shuffles) < 2:
        raise Absent("one shuffle has no standard deviation")
    return statistics.stdev(_distances_to_shuffles(weight, shuffles))


@metric(unit="", ref="the same √JSD, between pairs of shuffles", fmt=".4f", over_layers="")
def rand_null(shuffles: list[Measurement]) -> float:
    """Mean distance (√JSD) between two shuffles: the value of rand_distance for a layer without structure."""
    if len(shuffles) < 2:
        raise Absent("one shuffle cannot be compared with another")
    pairs = combinations([_require_eigenvalues(part) for part in shuffles], 2)
    return statistics.fmean(jensen_shannon(p, q) for p, q in pairs)


@metric(unit="W²", ref=HTSR, over_layers="")
def max_rand_eval(shuffles: list[Measurement]) -> float:
    """Largest eigenvalue of all shuffles."""
    return max(float(_require_eigenvalues(part)[-1]) for part in shuffles)


@metric(unit="", ref=HTSR, fmt=".3f")
def ww_softrank(weight: Spectrum, shuffles: list[Measurement]) -> float:
    """Mean λmax of the shuffles over λmax of the layer: the soft rank (mp_softrank) without a fit."""
    return _relative_to_largest(_mean_largest_eigenvalue(shuffles), float(weight.evals[-1]))


@metric(unit="W²", ref=HTSR, over_layers="")
def ww_maxdist(weight: Spectrum, shuffles: list[Measurement]) -> float:
    """λmax of the layer minus the mean λmax of the shuffles."""
    return float(weight.evals[-1]) - _mean_largest_eigenvalue(shuffles)


@metric(unit="", ref=TRAPS, fmt=".1f", over_layers="", label="traps")
def rand_num_spikes(shuffles: list[Measurement]) -> float:
    """Mean number of correlation traps per shuffle: eigenvalues beyond the random edge, caused by outlier weights.

    The edge is that of the shuffled matrix itself, after subtracting its mean.
    """
    return statistics.fmean(trap_counts(shuffles))


@metric(unit="", ref=TRAPS, fmt="d", over_layers="")
def max_traps(shuffles: list[Measurement]) -> int:
    """Largest number of correlation traps (see rand_num_spikes) in one shuffle."""
    return max(trap_counts(shuffles))


@metric(unit="", ref=TRAPS, fmt=".2f", over_layers="")
def trap_size(shuffles: list[Measurement]) -> float:
    """Relative distance of the largest correlation trap beyond the edge, λ/edge − 1."""
    mode = _largest_trap(shuffles)
    return mode.value / mode.edge - 1


@metric(unit="", ref=TRAPS, fmt=".1f", over_layers="")
def trap_participation(shuffles: list[Measurement]) -> float:
    """Participation 1/Σv⁴ of the largest trap's eigenvector: near 1 if a single weight causes the trap."""
    return _largest_trap(shuffles).participation ** 4


@metric(unit="", ref=TRAPS, fmt="s", over_layers="")
def trap_entries(shuffles: list[Measurement]) -> str:
    """The outlier weights that cause the traps, largest first, as [index] = value.

    A weight is listed if it carries more than a tenth of a trap's eigenvector.
    """
    weight_by_entry: dict[tuple[int, ...], float] = {}
    for mode in sorted(_all_traps(shuffles), key=lambda mode: -mode.value):
        if mode.share > MIN_CARRIED_SHARE:
            weight_by_entry.setdefault(mode.entry, mode.weight)
    if not weight_by_entry:
        raise Absent("no trap is carried by a single weight")
    descriptions = [
        f"[{', '.join(map(str, entry))}] = {weight:.3g}"
        for entry, weight in list(weight_by_entry.items())[:MAX_NAMED_ENTRIES]
    ]
    return "; ".join(descriptions) + (
        f"; {len(weight_by_entry) - MAX_NAMED_ENTRIES} more" if len(weight_by_entry) > MAX_NAMED_ENTRIES else ""
    )


def trap_counts(shuffles: list[Measurement]) -> list[int]:
    """Return the number of correlation traps in each shuffle."""
    for part in shuffles:
        _require_bulk(part)
    return [len(part.modes) for part in shuffles]


def is_grave_trap(mode: Mode, size: float) -> bool:
    """Return whether a trap lies further than ``size`` beyond its edge and one weight carries over a tenth of it."""
    return mode.share > MIN_CARRIED_SHARE and mode.value > (1 + size) * mode.edge


def _all_traps(shuffles: list[Measurement]) -> list[Mode]:
    return [mode for part in shuffles for mode in part.modes]


def _largest_trap(shuffles: list[Measurement]) -> Mode:
    located = [mode for mode in _all_traps(shuffles) if mode.participation > 0]
    if not located:
        raise Absent("there is no correlation trap")
    return max(located, key=lambda mode: mode.value / mode.edge)


def _require_bulk(part: Measurement) -> Fit:
    fit = part.fits["marchenko_pastur"]
    if not fit.ok:
        raise Absent(fit.reason)
    return fit


def _require_eigenvalues(part: Measurement) -> Floats:
    if part.spectrum is None:
        raise Absent(part.skipped or "the spectrum of the shuffle was not kept")
    return part.spectrum.evals


def _distances_to_shuffles(weight: Spectrum, shuffles: list[Measurement]) -> list[float]:
    if weight.evals[-1] <= 0:
        raise Absent("every weight is zero")
    if weight.m < 2:
        raise Absent("a matrix of one column has the same spectrum as its shuffles")
    return [jensen_shannon(weight.evals, _require_eigenvalues(part)) for part in shuffles]


def _mean_largest_eigenvalue(shuffles: list[Measurement]) -> float:
    return statistics.fmean(float(_require_eigenvalues(part)[-1]) for part in shuffles)


def _relative_to_largest(value: float, top: float) -> float:
    if top <= 0:
        raise Absent("every weight is zero")
    return value / top
