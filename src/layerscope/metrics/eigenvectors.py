"""How far the eigenvectors of a layer are localised, in the tail of the spectrum and in its bulk."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.metrics.references import HTSR
from layerscope.numerics.spectrum import Mode
from layerscope.records.layers import Fit

VECTORS = f"{HTSR}, §5 (localisation of eigenvectors)"


def entropy(mode: Mode) -> float:
    return mode.entropy


def localization(mode: Mode) -> float:
    return mode.localization


def participation(mode: Mode) -> float:
    return mode.participation


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_mean_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean over the tail of −Σp ln p of the histogram of |v| in 100 bins."""
    return statistics.fmean(_tail_values(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_var_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same over the tail."""
    return statistics.pvariance(_tail_values(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_mean_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean of the same over the eigenvalues below xmin."""
    return statistics.fmean(_bulk_values(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_var_vec_entropy(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same below xmin."""
    return statistics.pvariance(_bulk_values(modes, power_law, entropy))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def tail_mean_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean over the tail of ‖v‖₁/‖v‖∞: 1 on a single entry, M when even."""
    return statistics.fmean(_tail_values(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def tail_var_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same over the tail."""
    return statistics.pvariance(_tail_values(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def bulk_mean_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean of the same over the eigenvalues below xmin."""
    return statistics.fmean(_bulk_values(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".1f", over_layers="")
def bulk_var_loc_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same below xmin."""
    return statistics.pvariance(_bulk_values(modes, power_law, localization))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_mean_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean over the tail of ‖v‖₂/‖v‖₄; its fourth power is the number of entries that take part."""
    return statistics.fmean(_tail_values(modes, power_law, participation))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def tail_var_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same over the tail."""
    return statistics.pvariance(_tail_values(modes, power_law, participation))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_mean_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Mean of the same over the eigenvalues below xmin."""
    return statistics.fmean(_bulk_values(modes, power_law, participation))


@metric(unit="", ref=VECTORS, fmt=".3f", over_layers="")
def bulk_var_part_ratio(modes: tuple[Mode, ...], power_law: Fit) -> float:
    """Variance of the same below xmin."""
    return statistics.pvariance(_bulk_values(modes, power_law, participation))


def _tail_values(modes: tuple[Mode, ...], power_law: Fit, measure: Callable[[Mode], float]) -> list[float]:
    return [measure(mode) for mode in modes[_first_tail_mode(modes, power_law) :]]


def _bulk_values(modes: tuple[Mode, ...], power_law: Fit, measure: Callable[[Mode], float]) -> list[float]:
    values = [measure(mode) for mode in modes[: _first_tail_mode(modes, power_law)]]
    if not values:
        raise Absent("the tail is the whole spectrum")
    return values


def _first_tail_mode(modes: tuple[Mode, ...], power_law: Fit) -> int:
    """The first mode at xmin or above; the two were computed by different routines."""
    smallest = power_law.params["xmin"] * (1 - 1e-9)
    return sum(mode.value < smallest for mode in modes)
