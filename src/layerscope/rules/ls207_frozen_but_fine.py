"""Rule LS207: the gradient is tiny compared with the weight and the loss is small, so the layer has converged."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

SMALL_LOSS_SHARE = 0.1  # share of the first loss, or of chance level, below which the loss is small


@rule(
    "LS207",
    "converged layer",
    severity="info",
    needs=("domination",),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), §4.2",
)
def frozen_but_fine(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The gradient is tiny compared with the weight and the loss is small: the layer has converged.

    **What it means.** At a loss near chance level the same ratio indicates weight domination (LS206). At a small loss
    it is the normal sign of convergence. Nothing needs to be done.

    **Evidence.** σmax(∂L/∂W)/σmax(W) is below a thousandth. The mean loss is below a tenth of the first measured loss,
    or of the chance level if there was no earlier measurement.

    **Caveats.** The loss is small on these examples; whether the model generalizes is a different question.
    """
    facts, ratio = layer.parts["weight"].facts, float(layer.metrics["domination"])
    chance = math.log(facts["outputs"]) if facts.get("outputs", 0) > 1 else math.nan
    reference, limit = facts.get("first_loss", chance), settings.limits.domination
    if ratio >= limit or not 0 <= facts.get("loss", math.nan) <= SMALL_LOSS_SHARE * reference:
        return None
    message = (
        f"σmax of the gradient is {ratio:.2g} of the weight's (limit: {limit:g}) at a loss of {facts['loss']:.2g}. "
        "The layer has converged on these examples. Nothing needs to be done."
    )
    return Verdict(message, ratio, limit)
