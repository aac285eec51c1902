"""Rule LS201: λmax of the layer inputs falls or grows steadily with depth."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.depth_trend import describe_slope, slope
from layerscope.settings import Settings


@rule(
    "LS201",
    "activations shrink or grow with depth",
    severity="warn",
    needs=("lambda_max_x",),
    over="model",
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), Theorem 1; He et al., ICCV 2015",
)
def forward_slope(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """λmax of the layer inputs falls or grows steadily from layer to layer.

    **What it means.** Each layer scales its inputs, and over many layers the factors multiply. The signal arrives at
    the last layers too small to distinguish examples, or so large that the first training step overshoots.

    **Evidence.** The median slope of log₁₀ λmax(S_x) over depth, for at least five layers; S_x is the covariance of the
    layer inputs. The limit of 0.15 decades per layer is a factor of 1.4 in energy. Measured on the given batches, in
    the mode (training or evaluation) of the model.

    **Caveats.** Layers of different width have different λmax, so a network that becomes narrower has a slope of its
    own. Before the first step the verdict is about the initialization, later about the effect of training.

    **What to try.** Use He or orthogonal initialization (divide the weights of each layer by
    10^(slope/2)), or add normalization between the layers.
    """
    trend, limit = slope(model, "lambda_max_x"), settings.limits.depth_slope
    if trend is None or abs(trend[0]) <= limit:
        return None
    what = "vanishes" if trend[0] < 0 else "explodes"
    message = (
        f"{describe_slope(trend, 'λmax of the inputs')}; the limit is ±{limit:g}. The signal {what} with depth, "
        "so training is slow or unstable. Use He or orthogonal initialization, or add normalization between the layers."
    )
    return Verdict(message, round(trend[0], 4), limit)
