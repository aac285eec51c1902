"""α and its whole interval lie below 2: the tail of the spectrum is very heavy."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.tail_evidence import accepted, evidence
from layerscope.settings import Settings


@rule(
    "LS101",
    "over-trained",
    severity="warn",
    needs=("alpha", "alpha_low", "alpha_high", "D"),
    own=True,
    ref="Martin & Mahoney, JMLR 22(165), Table 1; Martin, Peng & Mahoney, Nat. Commun. 12, 4122 (2021)",
)
def over_trained(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The spectrum's tail is very heavy: α and its whole interval lie below 2.

    **What it means.** A few directions hold most of the layer. In controlled experiments α falls towards 2 while a
    layer learns and below 2 when it begins to fit what does not generalise.

    **Evidence.** α with its interval, the number of eigenvalues in the tail, the distance D. The verdict needs at
    least 20 eigenvalues in the tail, a power law that its goodness-of-fit test does not reject, and a spectrum that is
    not a Marchenko–Pastur bulk with a few spikes, of which α would only describe the upper part.

    **Caveats.** An α below 2 also comes from a few huge weights (a correlation trap), from embeddings with very
    frequent tokens, from small layers and from a power law that is none. It is no proof of over-fitting: compare
    with earlier checkpoints or sibling layers, and run with --evidence.

    **What to try.** Stop earlier, use a larger batch or lower learning rate for the layer, look for outlying weights.
    """
    limit = settings.limits.over_trained
    random = layer.metrics.get("phase") in ("random-like", "bleeding-out", "bulk+spikes")
    if float(layer.metrics["alpha_high"]) < limit and not random and accepted(layer, settings):
        return Verdict(f"very heavy tail: {evidence(layer)}", layer.metrics["alpha"], limit)
    return None
