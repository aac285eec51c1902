"""Rule LS204: the learning rate is too large for the curvature of the layer's Fisher block."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS204",
    "learning rate too large for the curvature",
    severity="warn",
    needs=("lambda_max_fim",),
    ref="Polyak 1964; Huang et al., ECCV 2020 (arXiv 2002.10801), §2",
)
def unstable_step(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The learning rate is too large for the curvature of the layer's Fisher block.

    **What it means.** On a quadratic loss of curvature λ, gradient descent converges only for learning rates below 2/λ.
    With momentum m the bound is 2(1+m)/λ, with Nesterov momentum 2(1+m)/((1+2m)λ). Above it, the first steps overshoot
    along the steepest direction and the loss rises.

    **Evidence.** λmax(S_x)·λmax(S_d) compared with the largest stable curvature for the given learning rate (``lr=``,
    ``momentum=``, ``nesterov=``). Without a learning rate there is no verdict.

    **Caveats.** The Fisher block stands in for the curvature. Far from convergence, the empirical Fisher matrix is a
    rough estimate of it, and K-FAC's product can be off by a factor of a few. Adam has no such bound.

    **What to try.** Use a lower learning rate or a warm-up. Or add normalization before the layer: λmax is proportional
    to the energy of its inputs.
    """
    limit = layer.parts["weight"].facts.get("curvature_limit")
    value = float(layer.metrics["lambda_max_fim"])
    if limit is None or value <= limit:
        return None
    energy = layer.metrics.get("mean_energy")
    cause = f"; {float(energy):.0%} of the inputs' largest eigenvalue is their mean" if energy is not None else ""
    message = (
        f"λmax of the Fisher block is {value:.3g}, but the learning rate is stable only up to {limit:.3g}{cause}. "
        "The first steps overshoot and the loss rises. "
        "Use a lower learning rate or a warm-up, or add normalization before the layer."
    )
    return Verdict(message, value, limit)
