"""How far the eigenvectors of a layer are localised, in the tail of the spectrum and in its bulk."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.numerics.spectrum import Mode
from layerscope.records.layers import Fit

VECTORS = "Martin & Mahoney, JMLR 22(165), §5 (localisation of eigenvectors)"


def entropy(mode: Mode) -> float:
    return mode.entropy


def localization(mode: Mode) -> float:
    return mode.localization


def participation(mode: Mode) -> float:
    return mode.participation


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_mean_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean over the tail of −Σp ln p of the histogram of |v| in 100 bins."""
    return statistics.fmean(_tail(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_var_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same over the tail."""
    return statistics.pvariance(_tail(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_mean_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean of the same over the eigenvalues below xmin."""
    return statistics.fmean(_bulk(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_var_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same below xmin."""
    return statistics.pvariance(_bulk(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def tail_mean_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean over the tail of ‖v‖₁/‖v‖∞: 1 on a single entry, M when even."""
    return statistics.fmean(_tail(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def tail_var_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same over the tail."""
    return statistics.pvariance(_tail(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def bulk_mean_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean of the same over the eigenvalues below xmin."""
    return statistics.fmean(_bulk(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def bulk_var_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same below xmin."""
    return statistics.pvariance(_bulk(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_mean_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean over the tail of ‖v‖₂/‖v‖₄; its fourth power is the number of entries that take part."""
    return statistics.fmean(_tail(modes, power_law, participation))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_var_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same over the tail."""
    return statistics.pvariance(_tail(modes, power_law, participation))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_mean_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean of the same over the eigenvalues below xmin."""
    return statistics.fmean(_bulk(modes, power_law, participation))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_var_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same below xmin."""
    return statistics.pvariance(_bulk(modes, power_law, participation))


def _tail(modes: tuple[Mode, ...], power_law: Fit, of: Callable[[Mode], float]) -> list[float]:
    return [of(mode) for mode in modes[_start(modes, power_law) :]]


def _bulk(modes: tuple[Mode, ...], power_law: Fit, of: Callable[[Mode], float]) -> list[float]:
    values = [of(mode) for mode in modes[: _start(modes, power_law)]]
    if not values:
        raise Absent("the tail is the whole spectrum")
    return values


def _start(modes: tuple[Mode, ...], power_law: Fit) -> int:
    """The first mode at xmin or above; the two were computed by different routines."""
    least = power_law.params["xmin"] * (1 - 1e-9)
    return sum(mode.value < least for mode in modes)
