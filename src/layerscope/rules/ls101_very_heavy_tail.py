"""Rule LS101: the tail of the spectrum is very heavy, with α and its whole range below 2."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.tail_evidence import accepted, evidence, is_usual
from layerscope.rules.untrained_layers import has_random_bulk
from layerscope.settings import Settings


@rule(
    "LS101",
    "very heavy tail",
    severity="info",
    needs=("alpha", "alpha_low", "alpha_high", "D"),
    own=True,
    shape=True,
    ref="Martin & Mahoney, JMLR 22(165), Table 1; Martin, Peng & Mahoney, Nat. Commun. 12, 4122 (2021)",
)
def very_heavy_tail(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The tail of the spectrum is very heavy: α and its whole range lie below 2, and α is not usual for the role.

    **What it means.** A few directions hold most of ‖W‖_F². This describes the layer and is no fault: one file does not
    show whether it is good or bad.

    **Evidence.** α with its range, the number of eigenvalues in the tail, the distance D between the tail and the
    fitted power law, and what is usual for the role of the layer and for untrained layers of its shape. The verdict
    requires at least 20 eigenvalues in the tail and a power law that passes its goodness-of-fit test. It is not given
    for a Marchenko–Pastur bulk with a few spikes, because α would then describe the spikes only.

    **Caveats.** WeightWatcher and its papers call such layers over-trained. On small networks with a known outcome,
    that does not hold: the verdict is given for 20 of 128 good networks, for 20 of 99 bad ones, and for 12 of 97 with a
    gap of more than 10 points between training and test accuracy. Rescaling hidden units leaves the function as it is
    and can change the verdict. α below 2 also results from a few very large weights (LS104), from embeddings with very
    frequent tokens, and from small layers.

    **What to try.** Compare with an earlier checkpoint or with a sibling (layerscope compare, layerscope history): an
    α that falls, turns and rises again while training goes on says more than its value.
    """
    limit = settings.limits.over_trained
    if float(layer.metrics["alpha_high"]) >= limit or has_random_bulk(layer) or not accepted(layer, settings):
        return None
    if is_usual(layer):
        return None
    message = (
        f"{evidence(layer)}; the whole range lies below {limit:g}. A few directions hold most of ‖W‖_F². One "
        "file does not show whether that is good or bad. Compare with an earlier checkpoint or with a similar model."
    )
    return Verdict(message, layer.metrics["alpha"], limit)
