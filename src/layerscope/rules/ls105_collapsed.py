"""The layer has lost its rank, or its weights altogether."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
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
def collapsed(layer: LayerReport, settings: Settings, model: Sequence[LayerReport]) -> Verdict | None:
    """The layer has lost its directions, or its weights altogether.

    **What it means.** One of three things: the weights are so small beside those of the other layers that weight
    decay (or dead inputs) has emptied the layer; at least a quarter of the eigenvalues are zero to the precision of
    the weights; or a single direction holds over nine tenths of ‖W‖_F² (stable rank below 1.1). A collapsed layer's α
    is not read, and the layer stays out of every average.

    **Evidence.** λmax beside the median λmax of the model's layers, the number of zero eigenvalues, the stable rank.

    **Caveats.** Pruned and low-rank-factorised layers have zero eigenvalues by design; layers that start at zero
    (adapters, gated residuals) are emptied until they are trained. A residual network can work
    with emptied layers: they are spare, not broken. A batch norm behind a tiny layer can restore its scale.

    **What to try.** Less weight decay, a look at dead units before the layer, or removing the layer.
    """
    m, limits = layer.metrics, settings.limits
    top, count, lost = float(m["lambda_max"]), int(m["num_evals"]), int(m["rank_loss"])
    if top == 0.0:
        return Verdict("every weight is zero", top, 0.0)
    tops = [float(other.metrics["lambda_max"]) for other in model if "lambda_max" in other.metrics]
    min_top = limits.emptied * median(tops)
    if len(tops) > 2 and top < min_top:
        message = f"emptied: λmax = {top:.1e} beside a median of {median(tops):.1e} over the model's layers"
        return Verdict(message, top, min_top)
    if count > 1 and lost >= limits.rank_loss * count:
        message = f"{lost} of {count} eigenvalues are zero to the weights' precision"
        return Verdict(message, lost, limits.rank_loss * count)
    rank = float(m["stable_rank"])
    if count >= MIN_EIGENVALUES_FOR_RANK and rank < limits.stable_rank:
        return Verdict(f"one direction holds the layer: stable rank {rank:.3f} of {count}", rank, limits.stable_rank)
    return None
