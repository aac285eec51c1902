"""Rule LS202: λmax of the output gradients falls or grows steadily with depth."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.depth_trend import describe_slope, has_norms, slope
from layerscope.settings import Settings

# added to the limit, decades per layer: normalization layers amplify gradients toward the input by themselves
NORMALIZED_SLOPE_ALLOWANCE = 0.05


@rule(
    "LS202",
    "gradients shrink or grow with depth",
    severity="warn",
    needs=("lambda_max_d",),
    over="model",
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), Theorem 1",
)
def backward_slope(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """λmax of the output gradients falls or grows steadily from layer to layer.

    **What it means.** On the way back, every layer scales the gradient. If λmax rises with depth, the first layers
    receive almost no gradient and stay at their initial values. If it falls, they receive too large a gradient.

    **Evidence.** The median slope of log₁₀ λmax(S_d) over depth, for at least five layers; S_d is the covariance of the
    output gradients. The limit is 0.15 decades per layer, or 0.2 in a model with normalization layers, which amplify
    gradients toward the input by about 0.15 decades on their own.

    **Caveats.** Those of LS201. In addition, the gradients of the empirical Fisher matrix shrink with the loss, in all
    layers alike.

    **What to try.** As for LS201, on the side of the output. Residual connections also help.
    """
    trend = slope(model, "lambda_max_d")
    limit = settings.limits.depth_slope + NORMALIZED_SLOPE_ALLOWANCE * has_norms(model)
    if trend is None or abs(trend[0]) <= limit:
        return None
    what = "almost no gradient" if trend[0] > 0 else "a much larger gradient than the last ones"
    message = (
        f"{describe_slope(trend, 'λmax of the output gradients')}; the limit is ±{limit:.3g}. The first layers receive "
        f"{what}. Use residual connections, normalization, or He or orthogonal initialization."
    )
    return Verdict(message, round(trend[0], 4), limit)
