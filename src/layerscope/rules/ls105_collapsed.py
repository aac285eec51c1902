"""Rule LS105: the layer has lost rank, or nearly all of its weights are zero."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.model_layers import ModelLayers
from layerscope.settings import Settings

MIN_EIGENVALUES_FOR_RANK = 16  # below which a stable rank near 1 says nothing


@rule(
    "LS105",
    "rank collapse",
    severity="error",
    needs=("lambda_max", "rank_loss", "num_evals"),
    own=True,
    ref="Martin & Mahoney, JMLR 22(165) (rank-collapse phase)",
)
def collapsed(layer: LayerReport, settings: Settings, model: ModelLayers) -> Verdict | None:
    """The layer has collapsed: it lost most of its rank, or its weights are practically zero.

    **What it means.** One of three things happened. The weights are tiny compared with those of the other layers,
    because weight decay or dead inputs emptied the layer. Or at least a quarter of the eigenvalues are zero to the
    precision of the weights. Or a single direction holds over nine tenths of ‖W‖_F² (stable rank below 1.1). The α of a
    collapsed layer is not used, and the layer is excluded from every average.

    **Evidence.** λmax compared with the median λmax of the model's layers, the number of zero eigenvalues, and the
    stable rank.

    **Caveats.** Pruned and low-rank factorized layers have zero eigenvalues by design. Layers that start at zero
    (adapters, gated residual branches) stay empty until they are trained. A residual network can work with emptied
    layers: they are redundant, not broken. A batch norm after a tiny layer can restore its scale.

    **What to try.** Use less weight decay, look for dead units before the layer, or remove the layer.
    """
    m, limits = layer.metrics, settings.limits
    top, count, lost = float(m["lambda_max"]), int(m["num_evals"]), int(m["rank_loss"])
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
    if count > 1 and lost >= limits.rank_loss * count:
        message = (
            f"{lost} of {count} eigenvalues are zero to the weights' precision (limit: {limits.rank_loss:.0%}). "
            "The layer has lost these directions, or never had them. Look for dead units, pruning or low-rank factors."
        )
        return Verdict(message, lost, limits.rank_loss * count)
    rank = float(m["stable_rank"])
    if count >= MIN_EIGENVALUES_FOR_RANK and rank < limits.stable_rank:
        message = (
            f"Stable rank {rank:.3f} of at most {count} (limit: {limits.stable_rank:g}). "
            "A single direction dominates the layer. Check the learning rate and the scale of the layer's inputs."
        )
        return Verdict(message, rank, limits.stable_rank)
    return None
