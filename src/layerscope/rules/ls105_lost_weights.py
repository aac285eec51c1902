"""Rule LS105: a layer has lost its weights: all of them, or those of many directions."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.model_layers import ModelLayers
from layerscope.settings import Settings


@rule(
    "LS105",
    "lost weights",
    severity="error",
    needs=("lambda_max", "rank_loss", "num_evals"),
    own=True,
    ref="Martin & Mahoney, JMLR 22(165) (rank-collapse phase)",
)
def lost_weights(layer: LayerReport, settings: Settings, model: ModelLayers) -> Verdict | None:
    """The layer has lost its weights: all of them, or those of many units or directions.

    **What it means.** One of these was found, in this order. Every weight is zero. The weights are tiny compared with
    those of the other layers. λmax lies below every initialization in use: the weights decayed to nothing. More than a
    third of the outputs have no weights: these units are dead. Or at least a quarter of the eigenvalues are zero to the
    precision of the weights, without those that dead outputs or ignored inputs explain (LS114). The α of such a layer
    is not used, and the layer is excluded from every average.

    **Evidence.** λmax, also compared with the median λmax of the model's layers, and the numbers of dead outputs and of
    zero eigenvalues.

    **Caveats.** Pruned and low-rank factorized layers have zero eigenvalues by design. Layers that start at zero
    (adapters, gated residual branches) stay empty until they are trained. A residual network can work with emptied
    layers: they are redundant, not broken. A batch norm after a tiny layer can restore its scale.

    **What to try.** Use less weight decay, go back to an earlier checkpoint, or remove the layer.
    """
    m, limits = layer.metrics, settings.limits
    top, count = float(m["lambda_max"]), int(m["num_evals"])
    if top == 0.0:
        message = "Every weight is zero. The layer is untrained or switched off. Check its initialization and loading."
        return Verdict(message, top, 0.0)
    median_top, layers = model.median_lambda_max
    min_top = limits.emptied * median_top
    if layers > 2 and top < min_top:
        message = (
            f"λmax = {top:.1e}, compared with a median of {median_top:.1e} over the model's layers. "
            "The layer is emptied, usually by weight decay or dead inputs. Use less weight decay, or remove the layer."
        )
        return Verdict(message, top, min_top)
    if top < limits.vanished:
        message = (
            f"λmax = {top:.1e}, below every initialization (limit: {limits.vanished:g}). The weights decayed to "
            "nothing. Use less weight decay, and go back to an earlier checkpoint."
        )
        return Verdict(message, top, limits.vanished)
    facts = layer.parts["weight"].facts
    dead, outputs = int(facts.get("dead_output_units", 0)), int(facts.get("output_units", 0))
    if dead > limits.dead_outputs_lost * outputs and layer.ref.kind != "embedding":
        message = (
            f"{dead} of {outputs} output units are dead: they have no weights (limit: a share of "
            f"{limits.dead_outputs_lost:.2f}). They compute only their biases. Prune them, or re-initialize them and "
            "train on."
        )
        return Verdict(message, dead, limits.dead_outputs_lost * outputs)
    lost = int(m["rank_loss"]) - _explained_by_units(layer)
    if count > 1 and lost >= limits.rank_loss * count:
        message = (
            f"{lost} of {count} eigenvalues are zero to the weights' precision (limit: {limits.rank_loss:.0%}). The "
            "layer has lost these directions, or never had them. Look for pruning or low-rank factors."
        )
        return Verdict(message, lost, limits.rank_loss * count)
    return None


def _explained_by_units(layer: LayerReport) -> int:
    """Return how many eigenvalues are zero because units of the shorter side have no weights."""
    facts, spectrum = layer.parts["weight"].facts, layer.spectrum
    if spectrum is None or "output_units" not in facts:
        return 0
    side = min(facts["output_units"], facts["input_units"])
    dead = max(facts[f"dead_{units}"] for units in ("output_units", "input_units") if facts[units] == side)
    return int(dead) * len(spectrum.evals) // max(1, int(side))
