"""Another distribution fits the tail better than a power law."""

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
    """The likelihoods prefer an exponential, lognormal or truncated tail: do not read α.

    **What it means.** Another distribution describes the same eigenvalues significantly better (Vuong's test, for the
    truncated power law the nested one, p < 0.1). The maximum-likelihood α still exists, but it is the slope of a line
    through a curve.

    **Evidence.** The log-likelihood ratio R (negative: the rival is better) and its p. Only measured with
    --evidence.

    **Caveats.** A lognormal can imitate any power law over a short range, and a test of 50 eigenvalues is weak in both
    directions. Where this verdict is given, LS101 and LS102 are not.
    """
    fit = rival(layer)
    if fit is None:
        return None
    p, alpha = fit.params["p"], layer.metrics["alpha"]
    chance = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    message = f"{fit.family} preferred: R = {fit.params['ratio']:.1f}, {chance}; do not read α = {alpha:.2f}"
    return Verdict(message, p, settings.limits.vuong)
