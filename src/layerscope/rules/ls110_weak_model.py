"""Many layers have a large α: the model has learned few correlations."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.numerics.histogram_peak import peak_of
from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

MIN_LAYERS_FOR_HISTOGRAM = 12  # layers with α below which a histogram has no peak


@rule(
    "LS110",
    "too little or too poor data",
    severity="warn",
    needs=("alpha",),
    over="model",
    ref="Martin, Peng & Mahoney, Nat. Commun. 12, 4122 (2021), Fig. 6 (GPT against GPT-2)",
)
def weak_model(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """Several layers lie above 6 and the histogram of α peaks above 4: the pattern that told GPT from GPT-2.

    **What it means.** The model as a whole has learned fewer correlations than well-trained ones of its kind. GPT,
    trained on little data, showed a wider histogram with its peak at 4 and layers above 6; GPT-2, the same design with
    more and better data, peaked at 3.5 with none.

    **Evidence.** The number of layers with α above 6 (at least two, and a twentieth of those with an α), the peak of
    the histogram of α (a Gaussian kernel of Silverman's width, embeddings and collapsed layers left out), of at least
    twelve layers.

    **Caveats.** α depends on the shape of a layer: wide layers and pooled convolutions lie higher. Compare with a model
    of the same design rather than with a number. An untrained model shows the same pattern (LS111 with --randomize).

    **What to try.** More or better data, longer training, fewer parameters; layerscope compare with a model that is
    good.
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
        f"{weak} of {len(alphas)} layers have α > {settings.limits.under_trained:g}; the histogram peaks at {peak:.1f}"
    )
    return Verdict(message, peak, limit)
