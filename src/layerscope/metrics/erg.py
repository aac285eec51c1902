"""The effective correlation space of SETOL: the tail whose eigenvalues multiply to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit

if TYPE_CHECKING:
    from layerscope.array_types import Floats

SETOL = "Martin & Hinrichs, SETOL, arXiv 2507.17912 (trace-log condition)"


def product_crossing(evals: Floats) -> int:
    """Return the number of eigenvalues, from the largest down, until their product first falls below 1.

    The eigenvalues are scaled to a mean of 1. A cumulative sum of logarithms is used, which neither overflows nor
    underflows. The eigenvalue at the crossing is counted.
    """
    if len(evals) < 2 or evals[0] >= evals[-1]:
        raise Absent("a flat spectrum has no λ_ERG")
    with np.errstate(divide="ignore"):
        logs = np.log(evals[::-1] / evals.mean())
    crossed = np.flatnonzero(np.cumsum(logs) < 0)
    return int(crossed[0]) + 1 if len(crossed) else len(evals)


@metric(unit="", ref=SETOL, over_layers="", fmt="d")
def detX_num(weight: Spectrum) -> int:
    """Number of eigenvalues, from the largest down, until their product falls below 1.

    The eigenvalues are divided by their mean first.
    """
    return product_crossing(weight.evals)


@metric(unit="W²", ref=SETOL, over_layers="")
def detX_val(weight: Spectrum) -> float:
    """The eigenvalue λ_ERG at which the product of the largest eigenvalues (see detX_num) crosses 1."""
    return _eigenvalue_at_crossing(weight)


@metric(unit="", ref=SETOL, over_layers="", fmt="d")
def ERG_gap(weight: Spectrum, power_law: Fit) -> int:
    """Gap detX_num − num_pl_spikes between the effective correlation space and the power-law tail, in eigenvalues.

    It is positive if the power law begins above λ_ERG. A gap of 0 with α = 2 is the ideal of SETOL.
    """
    return product_crossing(weight.evals) - int(power_law.params["spikes"])


@metric(unit="", ref=SETOL, fmt=".2f")
def ERG_xmin(weight: Spectrum, power_law: Fit) -> float:
    """Relative gap (xmin − λ_ERG) / λ_ERG: ERG_gap on the scale of the eigenvalues."""
    lambda_erg = _eigenvalue_at_crossing(weight)
    if lambda_erg <= 0:
        raise Absent("λ_ERG is a zero eigenvalue")
    return power_law.params["xmin"] / lambda_erg - 1


def _eigenvalue_at_crossing(weight: Spectrum) -> float:
    return float(weight.evals[len(weight.evals) - product_crossing(weight.evals)])
