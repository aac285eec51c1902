"""The gradient is tiny beside the weight although the loss is still high."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

HIGH_LOSS_SHARE = 0.5  # of the loss at first
CAUSES = (("weight_sigma_max", "weight", 5.0), ("lambda_max_x", "inputs", 0.01), ("lambda_max_d", "gradients", 0.01))
CHANCE_LOSS_TOLERANCE = 0.05  # relative distance from ln C up to which the loss is at chance


@rule(
    "LS206",
    "weight domination",
    severity="warn",
    needs=("domination", "coherence"),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), §4.2",
)
def weight_domination(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The gradient is so small beside the weight that the layer hardly moves, while the loss is still high.

    **What it means.** σmax(∂L/∂W) below a thousandth of σmax(W): steps leave the weight as it is. With the loss at
    its chance level, or at half of what it was at first, that is no convergence but a false minimum: the features,
    the gradients, or their agreement have died.

    **Evidence.** The ratio of the largest singular values; the mean loss within 5 % of ln C for C outputs, or above
    half of that of the first measurement (a monitor, or ``since=``). The cause: since then the weight grew more than
    5 times, or λmax of its inputs or output-gradients fell more than 100 times; or the coherence is below 2/√N, so
    that the examples' gradients cancel like noise.

    **Caveats.** A small gradient is also what convergence looks like: at a small loss there is no such verdict. Only
    cross entropy has a chance level.

    **What to try.** A smaller weight (decay, a smaller rate before), a normalisation before the layer, a warm-up.
    """
    facts, ratio = layer.parts["weight"].facts, float(layer.metrics["domination"])
    chance = math.log(facts["outputs"]) if facts.get("outputs", 0) > 1 else math.nan
    limit = settings.limits.domination
    loss, first = facts.get("loss", math.nan), facts.get("first_loss", math.nan)
    at_chance = abs(loss - chance) <= CHANCE_LOSS_TOLERANCE * chance
    if ratio >= limit or not (at_chance or (first > 0 and loss >= HIGH_LOSS_SHARE * first)):
        return None
    where = "at chance" if at_chance else f"{loss / first:.0%} of that at first"
    return Verdict(f"σmax of the gradient is {ratio:.2g} of the weight's, loss {where}; {_cause(layer)}", ratio, limit)


def _cause(layer: LayerReport) -> str:
    """What changed since the first measurement, where there was one."""
    facts, now = layer.parts["weight"].facts, layer.metrics
    causes = []
    for name, what, times in CAUSES:
        first, value = facts.get(f"first_{name}", 0.0), float(now.get(name, 0.0))
        if first > 0 and value > 0 and (value / first >= times if times > 1 else value / first <= times):
            causes.append(f"{what} {value / first:.2g} times what it was")
    if float(now["coherence"]) < 2 / math.sqrt(facts["examples"]):
        causes.append("the examples' gradients cancel")
    return ", ".join(causes) or "inputs, gradients or weight: compare the factors over time"
