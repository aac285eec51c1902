"""λmax of the output gradients falls or grows steadily with depth."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.depth_trend import describe_slope, has_norms, slope
from layerscope.settings import Settings

# decades per layer more: normalized nets amplify gradients towards the input by themselves
NORMALIZED_SLOPE_ALLOWANCE = 0.05


@rule(
    "LS202",
    "gradients fade or explode over depth",
    severity="warn",
    needs=("lambda_max_d",),
    over="model",
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), Theorem 1",
)
def backward_slope(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """λmax of the output-gradients falls or grows steadily from layer to layer.

    **What it means.** What comes back is scaled by every layer that it passes. Where it rises with depth, the first
    layers receive almost nothing and stay at their initial values; where it falls, they receive too much.

    **Evidence.** The median slope of log₁₀ λmax(S_d) over depth, of at least five layers, beyond 0.15 decades per
    layer; 0.2 in a model with normalisations, which amplify gradients towards the input by about 0.15 by
    themselves.

    **Caveats.** As for LS201; and the empirical Fisher's gradients shrink as the loss does, in all layers alike.

    **What to try.** As for LS201, from the output's side; residual connections.
    """
    trend = slope(model, "lambda_max_d")
    limit = settings.limits.depth_slope + NORMALIZED_SLOPE_ALLOWANCE * has_norms(model)
    if trend is None or abs(trend[0]) <= limit:
        return None
    return Verdict(describe_slope(trend, "λmax of the output-gradients"), round(trend[0], 4), limit)
