"""Rule LS109: the spectral norm of the layer differs strongly from that of the same layer in other blocks."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.ls105_collapsed import collapsed
from layerscope.rules.model_layers import ModelLayers
from layerscope.settings import Settings

MIN_SIBLINGS = 5  # including the layer itself
MIN_ROBUST_DEVIATIONS = 5.0  # one is 1.4826 times the median absolute deviation


@rule(
    "LS109",
    "scale outlier",
    severity="warn",
    needs=("log_spectral_norm",),
    own=True,
    ref="Yoshida & Miyato, arXiv 1705.10941 (spectral norm and sensitivity); Hampel 1974 (median absolute deviation)",
)
def scale_outlier(layer: LayerReport, settings: Settings, model: ModelLayers) -> Verdict | None:
    """The spectral norm of the layer differs strongly from that of the corresponding layers in other blocks.

    **What it means.** λmax is at least ten times larger or smaller than the median of the corresponding layers, and at
    least five robust standard deviations away from it. The layer amplifies or attenuates its inputs unlike any other of
    its kind.

    **Evidence.** log10 λmax compared with the median over the corresponding layers: those of the same shape whose names
    differ only in the numbers between dots. At least five layers are required.

    **Caveats.** The first and last blocks often differ for good reasons. A normalization layer before or after the
    layer can compensate for any scale. Collapsed layers are reported by LS105 instead.

    **What to try.** Check the neighboring normalization layers, gradient clipping and learning-rate warm-up. After
    quantization or merging, check the scale factor of the layer.
    """
    log_norm, others = float(layer.metrics["log_spectral_norm"]), model.corresponding_scales(layer)
    if others.layers < MIN_SIBLINGS or collapsed(layer, settings, model) is not None:
        return None
    deviation = log_norm - others.median
    limit = max(settings.limits.scale_outlier, MIN_ROBUST_DEVIATIONS * others.deviation)
    if abs(deviation) <= limit:
        return None
    factor = 10 ** abs(deviation)
    comparison = "larger" if deviation > 0 else "smaller"
    message = (
        f"λmax is {factor:.3g} times {comparison} than the median of {others.layers} corresponding layers "
        f"(limit: {10**limit:.3g} times). The layer scales its inputs unlike the others. "
        "Check the normalization around it, and its scale factor after quantization or merging."
    )
    return Verdict(message, log_norm, others.median + math.copysign(limit, deviation))
