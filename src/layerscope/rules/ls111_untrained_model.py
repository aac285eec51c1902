"""More than half of the layers look random."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.ls103_nearly_random import nearly_random
from layerscope.settings import Settings

NEEDS = ("rand_distance", "rand_null", "num_spikes")
MIN_COMPARED_LAYERS = 4  # large enough to be distinguished from random ones


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

    **What it means.** The weights are at, or close to, a random initialisation: a checkpoint saved before training, one
    loaded in part, or a network far wider than its task.

    **Evidence.** The number of layers on which LS103 fires, of those that were compared with shuffles
    and are large enough for a tail fit; at least four.

    **Caveats.** LS103's. Lazily trained wide networks can work well while their spectra hardly move.

    **What to try.** Check that the checkpoint was loaded, and which one; compare with the initial weights (--base).
    """
    compared = [
        layer
        for layer in model
        if all(need in layer.metrics for need in NEEDS) and int(layer.metrics["num_evals"]) >= settings.min_evals
    ]
    random = sum(nearly_random(layer, settings) is not None for layer in compared)
    if len(compared) < MIN_COMPARED_LAYERS or 2 * random <= len(compared):
        return None
    message = f"{random} of {len(compared)} layers look like their own shuffles"
    return Verdict(message, random, len(compared) / 2)
