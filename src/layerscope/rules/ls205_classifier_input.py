"""The last layer's inputs are so large and aligned that the first steps overshoot."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

MAX_MEAN_SHARE = 0.9  # share of λmax that is the mean's


@rule(
    "LS205",
    "last layer without a normalisation",
    severity="warn",
    needs=("lambda_max_fim", "mean_energy"),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), §5",
)
def classifier_input(layer: LayerReport, settings: Settings) -> Verdict | None:
    """What comes into the last layer is large and points one way, so that the first steps must overshoot.

    **What it means.** A residual stream grows with every block and, behind ReLUs, is never negative: nearly all of its
    energy is its mean. The last layer's curvature λmax(S_x)·λmax(S_d) then exceeds what the rate can follow; its
    weight overshoots, the loss rises above that of guessing, and the cheapest way down is to switch the features off.
    Deep networks then sit at chance for a long time.

    **Evidence.** The layer gives the model's output; λmax of its Fisher block against the limit of the rate that was
    given (``lr=``), and the share of λmax(S_x) that is the mean's, above 0.9.

    **Caveats.** K-FAC's product stands for the curvature. Adam has no such limit, a warm-up may get past it.

    **What to try.** A batch norm before the last layer (``layerscope.with_last_bn``), features divided by a constant,
    or a smaller rate at first.
    """
    facts, value = layer.parts["weight"].facts, float(layer.metrics["lambda_max_fim"])
    limit, energy = facts.get("curvature_limit"), float(layer.metrics["mean_energy"])
    if limit is None or not facts.get("final") or value <= limit or energy <= MAX_MEAN_SHARE:
        return None
    message = f"λmax = {value:.3g}, the rate can follow {limit:.3g}; {energy:.0%} of its inputs' λmax is their mean"
    return Verdict(message, value, limit)
