"""Rule LS102: the spectrum is light-tailed, with α and its whole interval above 6."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.tail_evidence import accepted, evidence
from layerscope.settings import Settings


@rule(
    "LS102",
    "light-tailed spectrum",
    severity="warn",
    needs=("alpha", "alpha_low", "alpha_high", "D"),
    own=True,
    ref="Martin, Peng & Mahoney, Nat. Commun. 12, 4122 (2021), Fig. 6 (GPT against GPT-2)",
)
def under_trained(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The spectrum is light-tailed: α and its whole interval lie above 6.

    **What it means.** The layer has learned little correlation beyond that of a random matrix. Common reasons are too
    little data, poor data, a short training, or more width than the task needs. Several such layers distinguish GPT
    (little data) from GPT-2 (more and better data). WeightWatcher calls such layers "under-trained".

    **Evidence.** α with its interval, the number of eigenvalues in the tail, and the distance D between the tail and
    the fitted power law. The verdict requires at least 20 eigenvalues in the tail and a power law that passes its
    goodness-of-fit test.

    **Caveats.** α depends on the shape of a layer. An untrained layer of 512 rows or a pooled convolution is often
    above 6; an untrained layer of 64 rows is mostly below. An α above 8 often means that there is no power law at all,
    and above 20 none is claimed. One layer above 6 is common in a well-trained network.

    **What to try.** Use more or better data, train longer, use a higher learning rate for the layer, or make it
    narrower.
    """
    limit = settings.limits.under_trained
    if float(layer.metrics["alpha_low"]) > limit and accepted(layer, settings):
        message = (
            f"{evidence(layer)}; the whole interval lies above {limit:g}. The layer has learned little beyond a random "
            "matrix. Train longer, use more or better data, or make the layer narrower."
        )
        return Verdict(message, layer.metrics["alpha"], limit)
    return None
