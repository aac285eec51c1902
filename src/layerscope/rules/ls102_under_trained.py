"""α and its whole interval lie above 6: the tail of the spectrum is weak."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.tail_evidence import accepted, evidence
from layerscope.settings import Settings


@rule(
    "LS102",
    "under-trained",
    severity="warn",
    needs=("alpha", "alpha_low", "alpha_high", "D"),
    own=True,
    ref="Martin, Peng & Mahoney, Nat. Commun. 12, 4122 (2021), Fig. 6 (GPT against GPT-2)",
)
def under_trained(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The spectrum's tail falls off fast: α and its whole interval lie above 6.

    **What it means.** The layer has learned little correlation beyond that of a random matrix: too little data, too
    poor data, too short a training, or more width than the task needs. Several such layers are the pattern that tells
    GPT (little data) from GPT-2 (more and better data).

    **Evidence.** α with its interval, the number of eigenvalues in the tail, the distance D. The verdict needs at
    least 20 eigenvalues in the tail and a power law that its goodness-of-fit test does not reject.

    **Caveats.** α depends on the shape of a layer: an untrained layer of 512 rows or a pooled convolution is often
    above 6, an untrained layer of 64 rows mostly below. A large α (above 8) often means that there is no power law at
    all; above 20 none is claimed. One layer above 6 in a well-trained network is common.

    **What to try.** More or better data, longer training, a larger learning rate for the layer, or a narrower layer.
    """
    limit = settings.limits.under_trained
    if float(layer.metrics["alpha_low"]) > limit and accepted(layer, settings):
        return Verdict(f"weak tail: {evidence(layer)}", layer.metrics["alpha"], limit)
    return None
