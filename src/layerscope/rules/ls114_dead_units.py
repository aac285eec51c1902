"""Rule LS114: some outputs of a layer have no weights."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.ls105_lost_weights import lost_weights
from layerscope.rules.model_layers import ModelLayers
from layerscope.settings import Settings


@rule(
    "LS114",
    "dead units",
    severity="info",
    needs=("dead_outputs", "lambda_max", "rank_loss", "num_evals"),
    own=True,
    ref="Mehta, Chaudhuri & Arandjelović, arXiv 1811.12495 (filters that die by weight decay); ours",
)
def dead_units(layer: LayerReport, settings: Settings, model: ModelLayers) -> Verdict | None:
    """At least 5 % of the outputs of the layer have no weights; more than a third of them is an error (LS105).

    **What it means.** Such a unit computes only its bias, whatever its input is. It costs memory and time and
    contributes nothing: usually it died in training and weight decay removed its weights. A model can work well with
    dead units, with fewer units than it pays for.

    **Evidence.** The number of outputs whose weights have at most 10⁻⁶ of the norm of the median output's weights.
    Inputs without weights are counted in the message only: inputs without information, such as the border of an image,
    lose their weights to weight decay.

    **Caveats.** Structured pruning leaves dead outputs on purpose. Rows of an embedding without weights are unused
    tokens and do not count. Units whose weights are small, but not zero, are not found.

    **What to try.** Remove the dead outputs, with the inputs of the next layer that they feed. Or re-initialize them
    and train on. For the next training: less weight decay, or a lower learning rate, because large steps kill ReLU
    units.
    """
    dead, outputs = int(layer.metrics["dead_outputs"]), int(layer.parts["weight"].facts["output_units"])
    limit = settings.limits.dead_outputs * outputs
    if not dead or dead < limit or layer.ref.kind == "embedding" or lost_weights(layer, settings, model) is not None:
        return None
    inputs = int(layer.metrics.get("dead_inputs", 0))
    message = (
        f"{dead} of {outputs} output units are dead: they have no weights"
        + (f", and {inputs} inputs are ignored" if inputs else "")
        + f" (limit: {settings.limits.dead_outputs:.0%}). They compute only their biases. Prune them, or re-initialize "
        "them and train on."
    )
    return Verdict(message, dead, limit)
