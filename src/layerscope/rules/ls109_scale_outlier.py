"""The layer's spectral norm is far from those of the same layer in other blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import median

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.ls105_collapsed import collapsed
from layerscope.settings import Settings

MIN_SIBLINGS = 5  # the layer included
MIN_ROBUST_DEVIATIONS = 5.0  # each 1.4826 times the median absolute one


@rule(
    "LS109",
    "scale outlier",
    severity="warn",
    needs=("log_spectral_norm",),
    own=True,
    ref="Yoshida & Miyato, arXiv 1705.10941 (spectral norm and sensitivity); Hampel 1974 (median absolute deviation)",
)
def scale_outlier(layer: LayerReport, settings: Settings, model: Sequence[LayerReport]) -> Verdict | None:
    """The layer's spectral norm is far from those of its siblings: the same place in other blocks.

    **What it means.** λmax is ten times larger or smaller than the siblings' median, and five robust standard
    deviations from it. The layer amplifies (or mutes) what passes through it as no other one of its kind does.

    **Evidence.** log10 λmax beside the median of its siblings: the layers of the same shape whose
    names differ only in the numbers between dots; at least five of them.

    **Caveats.** First and last blocks are often different and right so. A norm before or after the layer can make up
    for any scale. Collapsed layers are LS105's.

    **What to try.** Look at the norm layers around it, at clipping and warm-up; after quantisation or merging, at the
    layer's scale factor.
    """
    log_norm, slot = float(layer.metrics["log_spectral_norm"]), slot_of(layer.name)
    tops = [
        float(other.metrics["log_spectral_norm"])
        for other in model
        if "log_spectral_norm" in other.metrics
        and slot_of(other.name) == slot
        and sorted(other.ref.shape) == sorted(layer.ref.shape)
    ]
    if len(tops) < MIN_SIBLINGS or collapsed(layer, settings, model) is not None:
        return None
    middle = median(tops)
    spread = 1.4826 * median(abs(top - middle) for top in tops)
    deviation = log_norm - middle
    limit = max(settings.limits.scale_outlier, MIN_ROBUST_DEVIATIONS * spread)
    if abs(deviation) <= limit:
        return None
    factor = 10 ** abs(deviation)
    comparison = "larger" if deviation > 0 else "smaller"
    message = f"λmax is {factor:.3g} times {comparison} than the median of {len(tops)} siblings"
    return Verdict(message, log_norm, middle + math.copysign(limit, deviation))


def slot_of(name: str) -> str:
    """The place of a layer in its block: its name, the numbers between dots left out."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "#", name)
