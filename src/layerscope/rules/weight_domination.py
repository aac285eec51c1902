"""LS206."""

from __future__ import annotations

import math

from layerscope.rules import rule
from layerscope.settings import Settings
from layerscope.types import LayerReport, Verdict

CHANCE = 0.05  # relative distance from ln C up to which the loss is at chance


@rule(
    "LS206",
    "weight domination",
    severity="warn",
    needs=("domination", "coherence"),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), §4.2",
)
def weight_domination(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The gradient is so small beside the weight that the layer hardly moves, while the loss is still at chance.

    **What it means.** σmax(∂L/∂W) below a thousandth of σmax(W): steps leave the weight as it is. With the loss at
    its chance level that is no convergence but a false minimum: the features, the gradients, or their agreement
    have died.

    **Evidence.** The ratio of the largest singular values, and the mean loss within 5 % of ln C for C outputs;
    which factor is small, and the coherence: below 2/√N the examples' gradients cancel like noise.

    **Caveats.** A small gradient is also what convergence looks like: away from the chance level there is no
    verdict. Only cross entropy has a chance level.

    **What to try.** A smaller weight (decay, a smaller rate before), a normalisation before the layer, a warm-up.
    """
    facts, ratio = layer.parts["weight"].facts, float(layer.metrics["domination"])
    chance = math.log(facts["outputs"]) if facts.get("outputs", 0) > 1 else math.nan
    limit = settings.limits.domination
    if ratio >= limit or not abs(facts["loss"] - chance) <= CHANCE * chance:
        return None
    noise = float(layer.metrics["coherence"]) < 2 / math.sqrt(facts["examples"])
    cause = "the examples' gradients cancel" if noise else "inputs, gradients or weight: compare the factors over time"
    return Verdict(f"σmax of the gradient is {ratio:.2g} of the weight's, loss at chance; {cause}", ratio, limit)
