"""Whether a tail's exponent may be read at all."""

from __future__ import annotations

from layerscope.fits.power_law import modified_ks
from layerscope.settings import Settings
from layerscope.types import LayerReport


def accepted(layer: LayerReport, settings: Settings) -> bool:
    """Is the power law good enough, on enough eigenvalues, for a verdict on α?

    Enough: ``Limits.verdict_tail`` eigenvalues in the tail, and α not beyond ``Limits.spurious``. Good enough: the
    bootstrap p-value where there is one, else Stephens' statistic, which is weak; and no rival distribution that the
    likelihoods prefer.
    """
    limits, fit = settings.limits, layer.parts["weight"].fits["power_law"]
    n = int(fit.params["n_tail"])
    if n < limits.verdict_tail or fit.params["alpha"] > limits.spurious:
        return False
    if "p_value" in layer.metrics:
        fits = float(layer.metrics["p_value"]) >= limits.p_rejected
    else:
        fits = modified_ks(fit.params["ks"], n) <= limits.ks_rejected
    return fits and rival(layer, settings) is None


def rival(layer: LayerReport, settings: Settings) -> str | None:
    """The distribution that Vuong's test prefers to the power law, if any; the likelier of two."""
    fits = layer.parts["weight"].fits
    better = [
        fits[name]
        for name in ("exponential", "lognormal")
        if name in fits
        and fits[name].ok
        and fits[name].params["ratio"] < 0
        and fits[name].params["p"] < settings.limits.vuong
    ]
    return min(better, key=lambda fit: fit.params["ratio"]).family if better else None


def evidence(layer: LayerReport) -> str:
    """α with its interval and the size of its tail, for messages."""
    m = layer.metrics
    fit = layer.parts["weight"].fits["power_law"]
    interval = f"[{m['alpha_low']:.2f}, {m['alpha_high']:.2f}]"
    return f"α = {m['alpha']:.2f} {interval} on {int(fit.params['n_tail'])} eigenvalues, D = {m['D']:.3f}"
