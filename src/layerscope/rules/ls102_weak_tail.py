"""Rule LS102: the tail of the spectrum is weak, with α and its whole range above 6."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.tail_evidence import accepted, evidence, is_usual
from layerscope.rules.untrained_layers import has_random_bulk, looks_untrained
from layerscope.settings import Settings


@rule(
    "LS102",
    "weak tail",
    severity="info",
    needs=("alpha", "alpha_low", "alpha_high", "D"),
    own=True,
    shape=True,
    ref="Martin, Peng & Mahoney, Nat. Commun. 12, 4122 (2021), Fig. 6 (GPT against GPT-2)",
)
def weak_tail(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The tail of the spectrum is weak: α and its whole range lie above 6, and α is not usual for the role.

    **What it means.** Few directions stand out from the others. This describes the layer and is no fault: one such
    layer is common in good networks.

    **Evidence.** α with its range, the number of eigenvalues in the tail, the distance D between the tail and the
    fitted power law, and what is usual for the role of the layer and for untrained layers of its shape. The verdict
    requires at least 20 eigenvalues in the tail and a power law that passes its goodness-of-fit test. It is not given
    for a layer that looks random (LS103) or whose matrices are too narrow to have a random bulk: there, α reflects the
    shape of the layer.

    **Caveats.** WeightWatcher calls such layers under-trained. Several of them distinguish GPT (little data) from GPT-2
    (more and better data). α depends on the shape of a layer: an untrained layer of 512 rows or a pooled convolution is
    often above 6. An α above 8 often means that there is no power law at all, and above 20 none is claimed.

    **What to try.** Compare with an earlier checkpoint, or with the same layer of a model that is known to be good.
    """
    limit = settings.limits.under_trained
    if float(layer.metrics["alpha_low"]) <= limit or is_usual(layer) or not accepted(layer, settings):
        return None
    if "phase" not in layer.metrics or has_random_bulk(layer) or looks_untrained(layer, settings):
        return None
    message = (
        f"{evidence(layer)}; the whole range lies above {limit:g}. Few directions stand out from the others. One "
        "file does not show whether that is good or bad. Compare with the same layer of a good model."
    )
    return Verdict(message, layer.metrics["alpha"], limit)
