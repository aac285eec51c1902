"""Rule LS110: many layers have a large α, so the model has learned few correlations."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.numerics.histogram_peak import peak_of
from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

MIN_LAYERS_FOR_HISTOGRAM = 12  # fewest layers with an α for which the histogram has a meaningful peak


@rule(
    "LS110",
    "light tails in many layers",
    severity="warn",
    needs=("alpha",),
    over="model",
    ref="Martin, Peng & Mahoney, Nat. Commun. 12, 4122 (2021), Fig. 6 (GPT against GPT-2)",
)
def weak_model(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """Several layers have α above 6 and the histogram of α peaks above 4, as in GPT but not in GPT-2.

    **What it means.** The model as a whole has learned fewer correlations than well-trained models of its kind, usually
    because of too little or poor data. GPT, trained on little data, showed a wide histogram with its peak at 4 and
    layers above 6. GPT-2, the same architecture with more and better data, peaked at 3.5 with no layer above 6.

    **Evidence.** The number of layers with α above 6 (at least two, and 5 % of the layers with an α), and the peak of
    the histogram of α over at least twelve layers. The histogram is smoothed with a Gaussian kernel of Silverman's
    width; embeddings and collapsed layers are excluded.

    **Caveats.** α depends on the shape of a layer: wide layers and pooled convolutions have larger values. Compare with
    a model of the same architecture rather than with a fixed number. An untrained model shows the same pattern (LS111
    detects it with --randomize).

    **What to try.** Use more or better data, train longer, or use fewer parameters. Compare with a good model by
    layerscope compare.
    """
    alphas = [
        float(layer.metrics["alpha"])
        for layer in model
        if "alpha" in layer.metrics and layer.ref.kind != "embedding" and layer.metrics.get("phase") != "rank-collapse"
    ]
    alphas = [alpha for alpha in alphas if alpha <= settings.limits.spurious]
    if len(alphas) < MIN_LAYERS_FOR_HISTOGRAM:
        return None
    weak = sum(alpha > settings.limits.under_trained for alpha in alphas)
    peak, limit = peak_of(alphas), settings.limits.weak_peak
    if weak < max(2, settings.limits.weak_layers * len(alphas)) or peak <= limit:
        return None
    message = (
        f"{weak} of {len(alphas)} layers have α > {settings.limits.under_trained:g}, and the histogram of α peaks at "
        f"{peak:.1f} (limit: {limit:g}). This is the pattern of a model trained on too little or poor data. "
        "Use more or better data, train longer, or compare with a good model of the same architecture."
    )
    return Verdict(message, peak, limit)
