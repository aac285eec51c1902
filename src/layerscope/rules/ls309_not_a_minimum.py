"""Rule LS309: the model is not at a minimum, so sharpness measures do not describe one."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Slope

MAX_SLOPE_SHARE = 0.5  # share of the rise above which it comes mostly from the gradient


@rule(
    "LS309",
    "model is not at a minimum",
    severity="warn",
    needs=(),
    over="landscape",
    ref="Dinh et al., ICML 2017; Foret et al., ICLR 2021",
)
def slope_not_minimum(slope: Slope) -> Verdict | None:
    """The model is not at a minimum: its loss changes mostly because of the gradient, not because of curvature.

    **What it means.** At a minimum, the loss rises with the square of a step. Here, most of the rise along the gradient
    comes from the gradient itself, so sharpness measures do not describe the sharpness of a minimum.

    **Evidence.** The rise that the gradient alone predicts, radius · ‖g‖, relative to the measured rise.

    **Caveats.** The result depends on the examples: a model at a minimum of the training loss may not be at a minimum
    of the test loss.

    **What to try.** Measure on the training examples, or train longer. A smaller radius increases the share of the
    gradient.
    """
    linear_rise = slope.radius * slope.gradient
    if not (math.isfinite(slope.rise) and slope.rise > 0 and linear_rise > MAX_SLOPE_SHARE * slope.rise):
        return None
    message = (
        f"The gradient (‖g‖ = {slope.gradient:.3g}) accounts for {min(linear_rise / slope.rise, 1):.0%} of the loss "
        f"increase of {slope.rise:.3g} along it (limit: {MAX_SLOPE_SHARE:.0%}). The model is not at a minimum of this "
        "loss, so do not read its sharpness. Measure on the training examples, or train longer."
    )
    return Verdict(message, linear_rise / slope.rise, MAX_SLOPE_SHARE)
