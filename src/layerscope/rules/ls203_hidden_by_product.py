"""Rule LS203: λmax of the Fisher blocks is constant over depth although both factors change."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.depth_trend import slope
from layerscope.settings import Settings

MAX_LEVEL_SLOPE = 0.05  # decades per layer up to which the product counts as constant


@rule(
    "LS203",
    "the product of factors hides two slopes",
    severity="info",
    needs=("lambda_max_x", "lambda_max_d", "lambda_max_fim"),
    over="model",
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), Theorem 1",
)
def hidden_by_product(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """λmax of the Fisher blocks is nearly constant over depth although both of its factors change.

    **What it means.** If every weight is too small by the same factor, inputs shrink on the way forward and gradients
    shrink on the way back. Their product is then the same small number in every layer. The curvature alone shows that
    training is slow, but not where or why.

    **Evidence.** Both slopes are beyond the limit of LS201, and the slope of their product is within 0.05 decades per
    layer.

    **Caveats.** This verdict reports no problem of its own: it explains how to read the factors. LS202 allows networks
    with normalization another 0.05 decades per layer.

    **What to try.** Read the two factors instead of their product, and follow LS201 and LS202.
    """
    trends = [slope(model, name) for name in ("lambda_max_x", "lambda_max_d", "lambda_max_fim")]
    slopes = [trend[0] for trend in trends if trend is not None]
    limit = settings.limits.depth_slope
    if len(slopes) < 3 or min(abs(slopes[0]), abs(slopes[1])) <= limit or abs(slopes[2]) > MAX_LEVEL_SLOPE:
        return None
    message = (
        f"λmax changes by {slopes[0]:+.2f} decades per layer for the inputs and {slopes[1]:+.2f} for the output "
        f"gradients (limit ±{limit:g}), but by {slopes[2]:+.2f} for their product. The curvature λmax F hides both "
        "slopes. Read λmax Sx and λmax Sd separately."
    )
    return Verdict(message, round(slopes[2], 4), MAX_LEVEL_SLOPE)
