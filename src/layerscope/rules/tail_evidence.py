"""Whether a tail's exponent may be read at all."""

from __future__ import annotations

from layerscope.fits.power_law import modified_ks
from layerscope.records.layers import Fit, LayerReport
from layerscope.settings import Settings


def accepted(layer: LayerReport, settings: Settings) -> bool:
    """Is the power law good enough, on enough eigenvalues, for a verdict on α?"""
    return not doubt(layer, settings)


def doubt(layer: LayerReport, settings: Settings) -> str:
    """Why α carries no verdict, or "".

    It needs ``Limits.verdict_tail`` eigenvalues in the tail, an α of at most ``Limits.spurious``, a fit that is not
    rejected (by the bootstrap p-value where there is one, else by Stephens' statistic, which is weak), and no other
    distribution that the likelihoods prefer.
    """
    limits, fit = settings.limits, layer.parts["weight"].fits["power_law"]
    n = int(fit.params["n_tail"])
    if rival(layer) is not None:
        return "not a power law"
    if fit.params["alpha"] > limits.spurious:
        return "flat spectrum"
    if n < limits.verdict_tail:
        return "short tail"
    if "p_value" in layer.metrics:
        rejected = float(layer.metrics["p_value"]) < limits.p_rejected
    else:
        rejected = modified_ks(fit.params["ks"], n) > limits.ks_rejected
    return "poor fit" if rejected else ""


def rival(layer: LayerReport) -> Fit | None:
    """The distribution that the likelihoods prefer to the power law, if any was compared."""
    name = str(layer.metrics.get("best_fit", "power_law"))
    return None if name == "power_law" else layer.parts["weight"].fits[name]


def evidence(layer: LayerReport) -> str:
    """α with its interval and the size of its tail, for messages."""
    m = layer.metrics
    fit = layer.parts["weight"].fits["power_law"]
    interval = f"[{m['alpha_low']:.3f}, {m['alpha_high']:.3f}]"
    return f"α = {m['alpha']:.2f} {interval} on {int(fit.params['n_tail'])} eigenvalues, D = {m['D']:.3f}"
