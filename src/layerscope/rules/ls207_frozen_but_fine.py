"""The gradient is tiny beside the weight and the loss is small: the layer has converged."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

SMALL_LOSS_SHARE = 0.1  # of the loss at first, or of chance: learned


@rule(
    "LS207",
    "converged in this layer",
    severity="info",
    needs=("domination",),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), §4.2",
)
def frozen_but_fine(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The gradient is tiny beside the weight, and the loss is small: the layer has learned what it can here.

    **What it means.** The same ratio that speaks of weight domination at a loss near chance is what convergence looks
    like at a small one. Nothing is to be done.

    **Evidence.** σmax(∂L/∂W)/σmax(W) below a thousandth, and a mean loss below a tenth of that of the first
    measurement, or of chance where there is none.

    **Caveats.** Small on these data: whether it generalises is not said.
    """
    facts, ratio = layer.parts["weight"].facts, float(layer.metrics["domination"])
    chance = math.log(facts["outputs"]) if facts.get("outputs", 0) > 1 else math.nan
    reference, limit = facts.get("first_loss", chance), settings.limits.domination
    if ratio >= limit or not 0 <= facts.get("loss", math.nan) <= SMALL_LOSS_SHARE * reference:
        return None
    return Verdict(
        f"σmax of the gradient is {ratio:.2g} of the weight's at a loss of {facts['loss']:.2g}", ratio, limit
    )
