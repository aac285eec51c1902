"""Rule LS111: most layers look as before training."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.untrained_layers import COMPARED, looks_untrained
from layerscope.settings import Settings

MIN_COMPARED_LAYERS = 4  # fewest layers that are large enough to be distinguished from random ones
SHARE_COMPARED, SHARE_BY_PHASE = 0.5, 0.8  # of layers that look random, with and without shuffles to compare with


@rule(
    "LS111",
    "untrained model",
    severity="warn",
    needs=("num_evals",),
    over="model",
    ref="Martin & Mahoney, JMLR 22(165) (random-like phase)",
)
def untrained_model(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """Most layers look as they did before training.

    **What it means.** The weights are at, or close to, an initialization. Either the checkpoint was saved before
    training, or it was loaded only in part, or the network is far too wide for its task.

    **Evidence.** The layers with at least 50 eigenvalues (at least four of them) that look like their own shuffles
    (--randomize), whose spectrum is random-like, or whose singular values are all equal. The verdict requires more than
    half of them, or at least 80 % where they were not compared with shuffles.

    **Caveats.** Those of LS103. A very wide network can work well although its spectra hardly change in training.

    **What to try.** Check which checkpoint was loaded, and whether it was loaded completely. Compare with the initial
    weights (--base).
    """
    large = [
        layer
        for layer in model
        if not layer.skipped
        and layer.ref.kind != "embedding"
        and int(layer.metrics.get("num_evals", 0)) >= settings.min_evals
    ]
    if len(large) < MIN_COMPARED_LAYERS:
        return None
    is_compared = all(name in layer.metrics for layer in large for name in COMPARED)
    share = SHARE_COMPARED if is_compared else SHARE_BY_PHASE
    random = sum(looks_untrained(layer, settings) for layer in large)
    if random < share * len(large) or 2 * random <= len(large):
        return None
    like = "their own shuffles" if is_compared else "random or orthogonal matrices"
    message = (
        f"{random} of {len(large)} layers look like {like} (limit: {share:.0%}). "
        "The weights are close to an initialization. Check which checkpoint was loaded, and whether completely."
    )
    return Verdict(message, random, share * len(large))
