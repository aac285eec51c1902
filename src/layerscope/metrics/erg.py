"""SETOL's effective correlation space: the tail whose eigenvalues multiply to one."""

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
    """Eigenvalues from the largest down until their product first falls below 1, with a mean eigenvalue of 1.

    By a cumulative sum of logarithms, which neither over- nor underflows; the crossing eigenvalue is counted.
    """
    if len(evals) < 2 or evals[0] >= evals[-1]:
        raise Absent("a flat spectrum has no crossing")
    with np.errstate(divide="ignore"):
        logs = np.log(evals[::-1] / evals.mean())
    crossed = np.flatnonzero(np.cumsum(logs) < 0)
    return int(crossed[0]) + 1 if len(crossed) else len(evals)


@metric(unit="", ref=SETOL, over_layers="", fmt="d")
def detX_num(weight: Spectrum) -> int:
    """Eigenvalues from the largest down until their product first falls below 1, with a mean eigenvalue of 1."""
    return product_crossing(weight.evals)


@metric(unit="W²", ref=SETOL, over_layers="")
def detX_val(weight: Spectrum) -> float:
    """The eigenvalue at which the product crosses 1, λ_ERG."""
    return _eigenvalue_at_crossing(weight)


@metric(unit="", ref=SETOL, over_layers="", fmt="d")
def ERG_gap(weight: Spectrum, power_law: Fit) -> int:
    """detX_num − num_pl_spikes: above 0 when the power law begins to the right of λ_ERG; 0 with α = 2 is ideal."""
    return product_crossing(weight.evals) - int(power_law.params["spikes"])


@metric(unit="", ref=SETOL, fmt=".2f")
def ERG_xmin(weight: Spectrum, power_law: Fit) -> float:
    """(xmin − λ_ERG) / λ_ERG, the same gap on the scale of the eigenvalues."""
    lambda_erg = _eigenvalue_at_crossing(weight)
    if lambda_erg <= 0:
        raise Absent("the crossing lies at a zero eigenvalue")
    return power_law.params["xmin"] / lambda_erg - 1


def _eigenvalue_at_crossing(weight: Spectrum) -> float:
    return float(weight.evals[len(weight.evals) - product_crossing(weight.evals)])
