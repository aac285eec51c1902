"""Rule LS206: the gradient is tiny compared with the weight although the loss is still high."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

HIGH_LOSS_SHARE = 0.5  # share of the first measured loss above which the loss is still high
CAUSES = (
    ("weight_sigma_max", "σmax of the weight", 5.0),
    ("lambda_max_x", "λmax of the inputs", 0.01),
    ("lambda_max_d", "λmax of the output gradients", 0.01),
)
CHANCE_LOSS_TOLERANCE = 0.05  # relative distance from ln C up to which the loss is at chance


@rule(
    "LS206",
    "weight domination",
    severity="warn",
    needs=("domination", "coherence"),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), §4.2",
)
def weight_domination(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The gradient is so small compared with the weight that the layer hardly changes, while the loss is still high.

    **What it means.** σmax(∂L/∂W) is below a thousandth of σmax(W), so training steps leave the weight as it is. With
    the loss at chance level, or at half of its first value, this is not convergence but a false minimum. The features
    or the gradients have vanished, or the gradients of the examples cancel.

    **Evidence.** The ratio of the largest singular values. In addition, the mean loss is within 5 % of ln C for C
    outputs, or above half of the loss at the first measurement (by a monitor or ``since=``). The message names the
    cause: since the first measurement the weight grew more than 5 times, or λmax of its inputs or output gradients fell
    more than 100 times. Or the coherence is below 2/√N, so the gradients of the examples cancel like noise.

    **Caveats.** A small gradient is also a property of convergence, so there is no such verdict at a small loss. Only
    cross entropy has a chance level.

    **What to try.** Reduce the weight (by weight decay, or by a lower learning rate earlier in training), add
    normalization before the layer, or use a warm-up.
    """
    facts, ratio = layer.parts["weight"].facts, float(layer.metrics["domination"])
    chance = math.log(facts["outputs"]) if facts.get("outputs", 0) > 1 else math.nan
    limit = settings.limits.domination
    loss, first = facts.get("loss", math.nan), facts.get("first_loss", math.nan)
    at_chance = abs(loss - chance) <= CHANCE_LOSS_TOLERANCE * chance
    if ratio >= limit or not (at_chance or (first > 0 and loss >= HIGH_LOSS_SHARE * first)):
        return None
    where = "at chance level" if at_chance else f"at {loss / first:.0%} of its first value"
    message = (
        f"σmax of the gradient is {ratio:.2g} of the weight's (limit: {limit:g}), with the loss {where}. "
        f"The layer is stuck, not converged; {_cause(layer)}. "
        "Use weight decay, normalization before the layer, or a warm-up."
    )
    return Verdict(message, ratio, limit)


def _cause(layer: LayerReport) -> str:
    """Return what changed since the first measurement, or what to compare if there was none."""
    facts, now = layer.parts["weight"].facts, layer.metrics
    causes = []
    for name, what, times in CAUSES:
        first, value = facts.get(f"first_{name}", 0.0), float(now.get(name, 0.0))
        if first > 0 and value > 0 and (value / first >= times if times > 1 else value / first <= times):
            causes.append(f"{what} is {value / first:.2g} times its first value")
    if float(now["coherence"]) < 2 / math.sqrt(facts["examples"]):
        causes.append("the gradients of the examples cancel")
    return ", ".join(causes) or "compare inputs, gradients and weight over time to find the cause"
