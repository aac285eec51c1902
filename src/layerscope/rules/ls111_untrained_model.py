"""Rule LS111: more than half of the layers look random."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.ls103_nearly_random import nearly_random
from layerscope.settings import Settings

NEEDS = ("rand_distance", "rand_null", "num_spikes")
MIN_COMPARED_LAYERS = 4  # fewest layers that are large enough to be distinguished from random ones


@rule(
    "LS111",
    "looks untrained",
    severity="warn",
    needs=NEEDS,
    over="model",
    ref="Martin & Mahoney, JMLR 22(165) (random-like phase)",
)
def untrained_model(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """More than half of the layers look like their own shuffles.

    **What it means.** The weights are at, or close to, a random initialization. Either the checkpoint was saved before
    training, or it was loaded only in part, or the network is far too wide for its task.

    **Evidence.** The number of layers on which LS103 fires, among those that were compared with shuffles and are large
    enough for a power-law fit (at least four).

    **Caveats.** Those of LS103. A very wide network can work well although its spectra hardly change in training.

    **What to try.** Check which checkpoint was loaded, and whether it was loaded completely. Compare with the initial
    weights (--base).
    """
    compared = [
        layer
        for layer in model
        if all(need in layer.metrics for need in NEEDS) and int(layer.metrics["num_evals"]) >= settings.min_evals
    ]
    random = sum(nearly_random(layer, settings) is not None for layer in compared)
    if len(compared) < MIN_COMPARED_LAYERS or 2 * random <= len(compared):
        return None
    message = (
        f"{random} of {len(compared)} layers look like their own shuffles (limit: half). "
        "The weights are close to a random initialization. Check which checkpoint was loaded, and whether completely."
    )
    return Verdict(message, random, len(compared) / 2)
