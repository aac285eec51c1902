"""λmax of the layers' inputs falls or grows steadily with depth."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.depth_trend import describe_slope, slope
from layerscope.settings import Settings


@rule(
    "LS201",
    "activations fade or explode over depth",
    severity="warn",
    needs=("lambda_max_x",),
    over="model",
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), Theorem 1; He et al., ICCV 2015",
)
def forward_slope(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """λmax of the layers' inputs falls or grows steadily from layer to layer.

    **What it means.** Each layer scales what passes through it; over many layers the factors multiply. The signal
    reaches the last layers too small to tell examples apart, or so large that the first step overshoots.

    **Evidence.** The median slope of log₁₀ λmax(S_x) over depth, of at least five layers; 0.15 decades per layer is
    a factor of 1.4 in energy. Of one batch of data, in the mode that the model was in.

    **Caveats.** Layers of different width have different λmax: a net that narrows shows a slope of its own. At the
    first step it is the initialisation that is judged, later what training made of it.

    **What to try.** He or orthogonal initialisation (the factor to mend is 10 to half the slope, per layer), or a
    normalisation between the layers.
    """
    trend, limit = slope(model, "lambda_max_x"), settings.limits.depth_slope
    if trend is None or abs(trend[0]) <= limit:
        return None
    return Verdict(describe_slope(trend, "λmax of the inputs"), round(trend[0], 4), limit)
