"""Rule LS101: the spectrum is very heavy-tailed, with α and its whole interval below 2."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.tail_evidence import accepted, evidence
from layerscope.settings import Settings


@rule(
    "LS101",
    "very heavy-tailed spectrum",
    severity="warn",
    needs=("alpha", "alpha_low", "alpha_high", "D"),
    own=True,
    ref="Martin & Mahoney, JMLR 22(165), Table 1; Martin, Peng & Mahoney, Nat. Commun. 12, 4122 (2021)",
)
def over_trained(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The spectrum is very heavy-tailed: α and its whole interval lie below 2.

    **What it means.** A few directions dominate the layer. In controlled experiments, α falls toward 2 while a layer
    learns, and below 2 when the layer starts to fit details that do not generalize. WeightWatcher calls such layers
    "over-trained".

    **Evidence.** α with its interval, the number of eigenvalues in the tail, and the distance D between the tail and
    the fitted power law. The verdict requires at least 20 eigenvalues in the tail and a power law that passes its
    goodness-of-fit test. It is not given for a Marchenko–Pastur bulk with a few spikes, because α would then describe
    the spikes only.

    **Caveats.** An α below 2 is not proof of overfitting. It also results from a few very large weights (see LS104),
    from embeddings with very frequent tokens, from small layers, and from a tail that is no power law. Run with
    --evidence, and compare with earlier checkpoints or with layers of the same kind.

    **What to try.** Look for outlier weights with --randomize. Stop training earlier, or use a larger batch or a lower
    learning rate for the layer.
    """
    limit = settings.limits.over_trained
    random = layer.metrics.get("phase") in ("random-like", "bleeding-out", "bulk+spikes")
    if float(layer.metrics["alpha_high"]) < limit and not random and accepted(layer, settings):
        message = (
            f"{evidence(layer)}; the whole interval lies below {limit:g}. A few directions dominate the layer, which "
            "can be a sign of overfitting or of outlier weights. Compare with an earlier checkpoint, and check the fit "
            "with --evidence and the weights with --randomize."
        )
        return Verdict(message, layer.metrics["alpha"], limit)
    return None
