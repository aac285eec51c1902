"""Localization of the eigenvectors of a layer, in the tail of the spectrum and in its bulk."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.metrics.references import HTSR
from layerscope.numerics.spectrum import Mode
from layerscope.records.layers import Fit

VECTORS = f"{HTSR}, §5 (localization of eigenvectors)"


def entropy(mode: Mode) -> float:
    return mode.entropy


def localization(mode: Mode) -> float:
    return mode.localization


def participation(mode: Mode) -> float:
    return mode.participation


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_mean_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean entropy of the eigenvectors in the tail: −Σp ln p of the histogram of |v| in 100 bins."""
    return statistics.fmean(_tail_values(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_var_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the entropy (see tail_mean_vec_entropy) of the eigenvectors in the tail."""
    return statistics.pvariance(_tail_values(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_mean_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean entropy (see tail_mean_vec_entropy) of the eigenvectors below xmin, in the bulk."""
    return statistics.fmean(_bulk_values(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_var_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the entropy (see tail_mean_vec_entropy) of the eigenvectors in the bulk."""
    return statistics.pvariance(_bulk_values(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def tail_mean_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean localization ratio ‖v‖₁/‖v‖∞ of the eigenvectors in the tail: 1 on a single entry, M if even."""
    return statistics.fmean(_tail_values(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def tail_var_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the localization ratio (see tail_mean_loc_ratio) of the eigenvectors in the tail."""
    return statistics.pvariance(_tail_values(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def bulk_mean_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean localization ratio (see tail_mean_loc_ratio) of the eigenvectors below xmin, in the bulk."""
    return statistics.fmean(_bulk_values(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def bulk_var_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the localization ratio (see tail_mean_loc_ratio) of the eigenvectors in the bulk."""
    return statistics.pvariance(_bulk_values(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_mean_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean participation ratio ‖v‖₂/‖v‖₄ of the tail; its fourth power is the number of entries that take part."""
    return statistics.fmean(_tail_values(modes, power_law, participation))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_var_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the participation ratio (see tail_mean_part_ratio) of the eigenvectors in the tail."""
    return statistics.pvariance(_tail_values(modes, power_law, participation))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_mean_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean participation ratio (see tail_mean_part_ratio) of the eigenvectors below xmin, in the bulk."""
    return statistics.fmean(_bulk_values(modes, power_law, participation))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_var_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the participation ratio (see tail_mean_part_ratio) of the eigenvectors in the bulk."""
    return statistics.pvariance(_bulk_values(modes, power_law, participation))


def _tail_values(modes: tuple[Mode, ...], power_law: Fit, measure: Callable[[Mode], float]) -> list[float]:
    return [measure(mode) for mode in modes[_first_tail_mode(modes, power_law) :]]


def _bulk_values(modes: tuple[Mode, ...], power_law: Fit, measure: Callable[[Mode], float]) -> list[float]:
    values = [measure(mode) for mode in modes[: _first_tail_mode(modes, power_law)]]
    if not values:
        raise Absent("the tail covers the whole spectrum, so there is no bulk")
    return values


def _first_tail_mode(modes: tuple[Mode, ...], power_law: Fit) -> int:
    """Return the index of the first mode at or above xmin.

    A small tolerance is needed because eigenvalues and modes are computed by different routines.
    """
    smallest = power_law.params["xmin"] * (1 - 1e-9)
    return sum(mode.value < smallest for mode in modes)
