"""Rule LS106: another distribution fits the tail better than a power law."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.tail_evidence import rival
from layerscope.settings import Settings


@rule(
    "LS106",
    "tail is not a power law",
    severity="info",
    needs=("alpha",),
    ref="Clauset, Shalizi & Newman, SIAM Rev. 51 (2009), §5.1; Vuong, Econometrica 57 (1989)",
)
def not_a_power_law(layer: LayerReport, settings: Settings) -> Verdict | None:
    """Another distribution fits the tail better than a power law, so α must not be interpreted.

    **What it means.** An exponential, a lognormal or a truncated power law describes the same eigenvalues significantly
    better (p < 0.1 by Vuong's test, or by the nested test for the truncated power law). The maximum-likelihood α still
    exists, but it is the slope of a straight line drawn through a curve.

    **Evidence.** The log-likelihood ratio R (negative: the other distribution fits better) and its p-value. Measured
    with --evidence only.

    **Caveats.** A lognormal can imitate any power law over a short range, and a test on 50 eigenvalues is weak in both
    directions. If this verdict is given, LS101 and LS102 are not.

    **What to try.** Compare the layer by its norms, its stable rank or its phase instead of α.
    """
    fit = rival(layer)
    if fit is None:
        return None
    p, alpha = fit.params["p"], layer.metrics["alpha"]
    chance = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    message = (
        f"{fit.family} fits the tail better than a power law: R = {fit.params['ratio']:.1f}, {chance} "
        f"(limit: {settings.limits.vuong:g}). So α = {alpha:.2f} does not describe this layer. "
        "Compare its norms or its stable rank instead."
    )
    return Verdict(message, p, settings.limits.vuong)
