"""λmax of the Fisher blocks is level over depth although both of its factors change."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.depth_trend import slope
from layerscope.settings import Settings

MAX_LEVEL_SLOPE = 0.05  # decades per layer up to which a product looks level


@rule(
    "LS203",
    "the product hides both slopes",
    severity="info",
    needs=("lambda_max_x", "lambda_max_d", "lambda_max_fim"),
    over="model",
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), Theorem 1",
)
def hidden_by_product(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """λmax of the Fisher blocks looks level over depth although both of its factors change.

    **What it means.** Where every weight is too small by the same factor, inputs fade forward and gradients fade
    backward, and their product is the same small number in every layer. Curvature alone shows that learning is
    slow, not where nor why.

    **Evidence.** Both slopes beyond the limit of LS201, that of the product within 0.05 decades per layer.

    **Caveats.** None of its own: it says how to read the factors. LS202 allows normalised networks 0.05 more.

    **What to try.** Read the two factors, not their product.
    """
    trends = [slope(model, name) for name in ("lambda_max_x", "lambda_max_d", "lambda_max_fim")]
    slopes = [trend[0] for trend in trends if trend is not None]
    limit = settings.limits.depth_slope
    if len(slopes) < 3 or min(abs(slopes[0]), abs(slopes[1])) <= limit or abs(slopes[2]) > MAX_LEVEL_SLOPE:
        return None
    message = f"{slopes[0]:+.2f} decades per layer in λmax of the inputs, {slopes[1]:+.2f} of the output-gradients, "
    return Verdict(f"{message}{slopes[2]:+.2f} of their product", round(slopes[2], 4), MAX_LEVEL_SLOPE)
