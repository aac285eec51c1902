"""The model is on a slope, so sharpness measures do not describe a minimum."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Slope

MAX_SLOPE_SHARE = 0.5  # of the rise, from which it is mostly slope


@rule(
    "LS309",
    "a slope, not a minimum",
    severity="warn",
    needs=(),
    over="landscape",
    ref="Dinh et al., ICML 2017; Foret et al., ICLR 2021",
)
def slope_not_minimum(slope: Slope) -> Verdict | None:
    """The model is on a slope: rises of the loss around it are slope, not curvature.

    **What it means.** At a minimum the loss rises with the square of a step. Here most of the rise along the gradient
    is the gradient itself, so no measure of sharpness says how sharp the minimum is.

    **Evidence.** radius · ‖g‖, the rise that the slope alone gives, over the rise that was measured.

    **Caveats.** Of these examples: training data may be at a minimum where test data are not.

    **What to try.** Measure on the training data, or train on; a smaller radius makes it worse.

    """
    linear_rise = slope.radius * slope.gradient
    if not (math.isfinite(slope.rise) and slope.rise > 0 and linear_rise > MAX_SLOPE_SHARE * slope.rise):
        return None
    message = f"of the rise {slope.rise:.3g} along the gradient its slope is {min(linear_rise / slope.rise, 1):.0%}"
    return Verdict(f"{message} (‖g‖ = {slope.gradient:.3g})", linear_rise / slope.rise, MAX_SLOPE_SHARE)
