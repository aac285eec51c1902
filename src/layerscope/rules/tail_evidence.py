"""Whether the evidence for a power-law exponent α suffices for a verdict."""

from __future__ import annotations

from layerscope.fits.power_law import modified_ks
from layerscope.records.layers import Fit, LayerReport
from layerscope.rules.untrained_layers import looks_untrained
from layerscope.settings import Settings


def accepted(layer: LayerReport, settings: Settings) -> bool:
    """Return whether the power law fits well enough, on enough eigenvalues, for a verdict on α."""
    return not doubt(layer, settings)


def doubt(layer: LayerReport, settings: Settings) -> str:
    """Return why α does not support a verdict, or "" if it does.

    A verdict requires a layer that does not look untrained, at least ``Limits.verdict_tail`` eigenvalues in the tail,
    an α of at most ``Limits.spurious``, and no other distribution that the likelihood ratio prefers. The fit must also
    pass a goodness-of-fit test: the bootstrap p-value if it was computed, otherwise Stephens' statistic, which is a
    weak test.
    """
    if looks_untrained(layer, settings):
        return "looks untrained"
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
    """Return the fit that the likelihood ratio prefers to the power law, or None."""
    name = str(layer.metrics.get("best_fit", "power_law"))
    return None if name == "power_law" else layer.parts["weight"].fits[name]


def evidence(layer: LayerReport) -> str:
    """Describe α for a message: its range, the size of the tail and the distance D of the fit."""
    m = layer.metrics
    fit = layer.parts["weight"].fits["power_law"]
    interval = f"[{m['alpha_low']:.2f}, {m['alpha_high']:.2f}]"
    tail = f"{int(fit.params['n_tail'])} eigenvalues in the tail"
    return f"α = {m['alpha']:.2f} (range {interval}, {tail}, D = {m['D']:.3f}){usual_range(layer)}"


def usual_range(layer: LayerReport) -> str:
    """Describe what α is in healthy layers of the same role and in untrained ones of the same shape, or return ""."""
    m = layer.metrics
    ranges = []
    if "alpha_usual_low" in m:
        usual = f"{m['alpha_usual_low']:.1f} to {m['alpha_usual_high']:.1f}"
        ranges.append(f"{usual} is usual for the role {m['layer_role']}")
    if "alpha_untrained_low" in m:
        untrained = f"{m['alpha_untrained_low']:.1f} to {m['alpha_untrained_high']:.1f}"
        ranges.append(f"{untrained} for an untrained layer of this shape")
    return f"; {' and '.join(ranges)}" if ranges else ""


def is_usual(layer: LayerReport) -> bool:
    """Return whether α lies in the usual range of the layer's role; False if the range is not known."""
    m = layer.metrics
    if "alpha_usual_low" not in m:
        return False
    return bool(float(m["alpha_usual_low"]) <= float(m["alpha"]) <= float(m["alpha_usual_high"]))
