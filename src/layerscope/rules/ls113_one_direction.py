"""Rule LS113: a single direction holds nearly all of the layer's weight."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

MIN_EIGENVALUES_FOR_RANK = 16  # below which a stable rank near 1 says nothing


@rule(
    "LS113",
    "one direction dominates",
    severity="info",
    needs=("stable_rank", "num_evals"),
    own=True,
    shape=True,
    ref="Rudelson & Vershynin, J. ACM 54 (2007) (stable rank)",
)
def one_direction(layer: LayerReport, settings: Settings) -> Verdict | None:
    """A single direction holds over nine tenths of ‖W‖_F²: the stable rank is below 1.1.

    **What it means.** Whatever its input is, the layer's output lies close to one line. This describes the layer: there
    are models that work with such a layer, for example a convolution that averages its input.

    **Evidence.** The stable rank ‖W‖_F²/λmax of a layer with at least 16 eigenvalues.

    **Caveats.** One file does not show whether the rank was ever higher.

    **What to try.** Compare with an earlier checkpoint (layerscope compare): a stable rank that fell is a fault. Then
    check the learning rate, and the mean of the layer's inputs.
    """
    rank, count = float(layer.metrics["stable_rank"]), int(layer.metrics["num_evals"])
    if count < MIN_EIGENVALUES_FOR_RANK or rank >= settings.limits.stable_rank:
        return None
    message = (
        f"Stable rank {rank:.3f} of at most {count} (limit: {settings.limits.stable_rank:g}). A single direction holds "
        "nearly all of the layer. Compare with an earlier checkpoint: a rank that fell is a fault."
    )
    return Verdict(message, rank, settings.limits.stable_rank)
