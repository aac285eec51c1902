"""Rule LS110: many layers have a large α, as in GPT but not in GPT-2."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.numerics.histogram_peak import peak_of
from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.untrained_layers import is_quantized, looks_untrained
from layerscope.settings import Settings

MIN_LAYERS_FOR_HISTOGRAM = 12  # fewest layers with an α for which the histogram has a meaningful peak


@rule(
    "LS110",
    "weak tails in many layers",
    severity="info",
    needs=("alpha",),
    over="model",
    ref="Martin, Peng & Mahoney, Nat. Commun. 12, 4122 (2021), Fig. 6 (GPT against GPT-2)",
)
def weak_tails(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """Several layers have α above 6 and the histogram of α peaks above 4, as in GPT but not in GPT-2.

    **What it means.** Few directions stand out in many layers. GPT, trained on little data, showed a wide histogram
    with its peak at 4 and layers above 6. GPT-2, the same architecture with more and better data, peaked at 3.5 with no
    layer above 6. On other models, the cause can be another one.

    **Evidence.** The number of layers with α above 6 (at least two, and 5 % of the layers with an α), and the peak of
    the histogram of α over at least twelve layers. The histogram is smoothed with a Gaussian kernel of Silverman's
    width. Embeddings, collapsed layers, layers that look random (LS103) and quantized layers do not count, and the
    verdict is not given if more layers look random than not.

    **Caveats.** α depends on the shape of a layer: wide layers and pooled convolutions have larger values. Compare with
    a model of the same architecture rather than with a fixed number.

    **What to try.** Compare with a good model of the same architecture by layerscope compare.
    """
    fitted = [
        layer
        for layer in model
        if "alpha" in layer.metrics and layer.ref.kind != "embedding" and layer.metrics.get("phase") != "rank-collapse"
    ]
    trained = [layer for layer in fitted if not looks_untrained(layer, settings) and not is_quantized(layer.ref)]
    alphas = [float(layer.metrics["alpha"]) for layer in trained]
    alphas = [alpha for alpha in alphas if alpha <= settings.limits.spurious]
    if len(alphas) < MIN_LAYERS_FOR_HISTOGRAM or 2 * len(trained) <= len(fitted):
        return None
    weak = sum(alpha > settings.limits.under_trained for alpha in alphas)
    peak, limit = peak_of(alphas), settings.limits.weak_peak
    if weak < max(2, settings.limits.weak_layers * len(alphas)) or peak <= limit:
        return None
    message = (
        f"{weak} of {len(alphas)} layers have α > {settings.limits.under_trained:g}, and the histogram of α peaks at "
        f"{peak:.1f} (limit: {limit:g}). GPT had this pattern and GPT-2 had not. "
        "Compare with a good model of the same architecture."
    )
    return Verdict(message, peak, limit)
