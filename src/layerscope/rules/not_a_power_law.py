"""LS106."""

from __future__ import annotations

from layerscope.rules import rule
from layerscope.rules._tail import rival
from layerscope.settings import Settings
from layerscope.types import LayerReport, Verdict


@rule(
    "LS106",
    "tail is not a power law",
    severity="info",
    needs=("alpha",),
    ref="Clauset, Shalizi & Newman, SIAM Rev. 51 (2009), §5.1; Vuong, Econometrica 57 (1989)",
)
def not_a_power_law(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The likelihoods prefer an exponential or a lognormal tail: do not read α.

    **What it means.** Another distribution describes the same eigenvalues significantly better (Vuong's test,
    p < 0.1). The maximum-likelihood α still exists, but it is the slope of a line through a curve.

    **Evidence.** The log-likelihood ratio R (negative: the rival is better) and Vuong's p. Only measured with
    --evidence.

    **Caveats.** A lognormal can imitate any power law over a short range, and a test of 50 eigenvalues is weak in both
    directions. Where this verdict is given, LS101 and LS102 are not.
    """
    name = rival(layer, settings)
    if name is None:
        return None
    fit = layer.parts["weight"].fits[name]
    p, alpha = fit.params["p"], layer.metrics["alpha"]
    message = f"{name} preferred: R = {fit.params['ratio']:.1f}, p = {p:.3f}; do not read α = {alpha:.2f}"
    return Verdict(message, p, settings.limits.vuong)
