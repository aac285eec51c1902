"""Rule LS205: the inputs of the last layer are so large and aligned that the first steps overshoot."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

MAX_MEAN_SHARE = 0.9  # share of the inputs' λmax that their mean accounts for


@rule(
    "LS205",
    "last layer without normalization",
    severity="warn",
    needs=("lambda_max_fim", "mean_energy"),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), §5",
)
def classifier_input(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The inputs of the last layer are so large and so aligned that the first training steps overshoot.

    **What it means.** The activations of a residual network grow with every block and, after ReLUs, are never negative,
    so nearly all of their energy is their mean. The curvature λmax(S_x)·λmax(S_d) of the last layer then exceeds what
    the learning rate allows. Its weight overshoots, the loss rises above that of guessing, and the fastest way down is
    to switch the features off. Deep networks then stay at chance level for a long time.

    **Evidence.** The layer produces the output of the model. λmax of its Fisher block exceeds the largest stable
    curvature for the given learning rate (``lr=``), and the mean accounts for more than 90 % of λmax(S_x).

    **Caveats.** K-FAC's product stands in for the curvature. Adam has no such bound, and a warm-up may get past it.

    **What to try.** Add a batch norm before the last layer (``layerscope.with_last_bn``), divide the features by a
    constant, or start with a lower learning rate.
    """
    facts, value = layer.parts["weight"].facts, float(layer.metrics["lambda_max_fim"])
    limit, energy = facts.get("curvature_limit"), float(layer.metrics["mean_energy"])
    if limit is None or not facts.get("final") or value <= limit or energy <= MAX_MEAN_SHARE:
        return None
    message = (
        f"λmax of the Fisher block is {value:.3g}, but the learning rate is stable only up to {limit:.3g}; "
        f"{energy:.0%} of the inputs' λmax is their mean (limit: {MAX_MEAN_SHARE:.0%}). The first steps overshoot, and "
        "training can stall at chance level. "
        "Add a batch norm before the last layer, or start with a lower learning rate."
    )
    return Verdict(message, value, limit)
