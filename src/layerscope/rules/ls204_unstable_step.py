"""The learning rate is too large for the curvature of the layer's Fisher block."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS204",
    "step too large for the curvature",
    severity="warn",
    needs=("lambda_max_fim",),
    ref="Polyak 1964; Huang et al., ECCV 2020 (arXiv 2002.10801), §2",
)
def unstable_step(layer: LayerReport, settings: Settings) -> Verdict | None:
    """λmax of the layer's Fisher block is above what the learning rate can follow.

    **What it means.** Gradient descent on a quadratic of curvature λ converges only for rates below 2/λ; with
    momentum m below 2(1+m)/λ, with Nesterov's 2(1+m)/((1+2m)λ). Above it the first steps overshoot along the
    steepest direction and the loss rises.

    **Evidence.** λmax(S_x)·λmax(S_d) against the limit of the rate that was given (``lr=``, ``momentum=``,
    ``nesterov=``); without a rate there is no verdict.

    **Caveats.** The Fisher block stands for the curvature; with the empirical Fisher far from convergence it is an
    estimate, and K-FAC's product may be off by a factor of a few. Adam has no such limit.

    **What to try.** A smaller rate or a warm-up, or a normalisation before the layer: its inputs' energy is a
    factor of λ.
    """
    limit = layer.parts["weight"].facts.get("curvature_limit")
    value = float(layer.metrics["lambda_max_fim"])
    if limit is None or value <= limit:
        return None
    energy = layer.metrics.get("mean_energy")
    cause = f"; {float(energy):.0%} of the inputs' largest eigenvalue is their mean" if energy is not None else ""
    return Verdict(f"λmax = {value:.3g}, the rate can follow {limit:.3g}{cause}", value, limit)
