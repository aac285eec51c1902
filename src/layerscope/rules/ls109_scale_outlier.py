"""Rule LS109: the scale of the layer differs strongly from that of the corresponding layers."""

from __future__ import annotations

import math
from statistics import median

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.ls105_lost_weights import lost_weights
from layerscope.rules.model_layers import ModelLayers
from layerscope.settings import Settings

MIN_SIBLINGS = 5  # including the layer itself
MIN_OTHER_DENSE_LAYERS = 3
MIN_GAP = 0.4  # decades between the layer and each of the other dense layers
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
    """The scale of the layer differs strongly from that of the corresponding layers, or of the other dense layers.

    **What it means.** The layer amplifies or attenuates its inputs unlike any other of its kind.

    **Evidence.** log10 λmax compared with the median over the corresponding layers: those of the same shape whose names
    differ only in the numbers between dots. It must differ by a factor of ten, and by five robust standard deviations.
    For dense layers with fewer than five corresponding ones, the mean squared norm of an output's weights is compared
    with that of the other dense layers (at least three); after usual initializations, it is about 1 for every shape. It
    must differ from their median by a factor of ten, and from each of them by a factor of
    2.5. Layers with fewer than 50 eigenvalues, such as heads, are not judged.

    **Caveats.** The first and last blocks often differ for good reasons. A normalization layer before or after the
    layer can compensate for any scale. Layers that lost their weights are reported by LS105 instead.

    **What to try.** Check the neighboring normalization layers, gradient clipping and learning-rate warm-up. After
    quantization or merging, check the scale factor of the layer.
    """
    others = model.corresponding_scales(layer)
    if lost_weights(layer, settings, model) is not None:
        return None
    if others.layers < MIN_SIBLINGS:
        return _compare_with_dense_layers(layer, settings, model)
    log_norm = float(layer.metrics["log_spectral_norm"])
    deviation = log_norm - others.median
    limit = max(settings.limits.scale_outlier, MIN_ROBUST_DEVIATIONS * others.deviation)
    if abs(deviation) <= limit:
        return None
    message = _describe("λmax", deviation, f"{others.layers} corresponding layers", limit)
    return Verdict(message, log_norm, others.median + math.copysign(limit, deviation))


def _compare_with_dense_layers(layer: LayerReport, settings: Settings, model: ModelLayers) -> Verdict | None:
    scales = model.dense_scales
    others = [scale for name, scale in scales.items() if name != layer.name]
    is_small = int(layer.metrics.get("num_evals", 0)) < settings.min_evals  # a head of few outputs has its own scale
    if layer.name not in scales or is_small or len(others) < MIN_OTHER_DENSE_LAYERS:
        return None
    scale, middle, limit = scales[layer.name], median(others), settings.limits.scale_outlier
    gap = scale - max(others) if scale > middle else min(others) - scale
    if abs(scale - middle) < limit or gap < MIN_GAP:
        return None
    what = "The squared norm of an output's weights"
    message = _describe(what, scale - middle, f"{len(others)} other dense layers", limit)
    return Verdict(message, scale, middle + math.copysign(limit, scale - middle))


def _describe(quantity: str, deviation: float, others: str, limit: float) -> str:
    comparison = "larger" if deviation > 0 else "smaller"
    return (
        f"{quantity} is {10 ** abs(deviation):.3g} times {comparison} than the median of {others} "
        f"(limit: {10**limit:.3g} times). The layer scales its inputs unlike the others. "
        "Check the normalization around it, and its scale factor after quantization or merging."
    )
