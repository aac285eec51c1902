"""Rule LS302: some models have a loss barrier between them, so they should not be averaged."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs

MAX_REASONS = 3  # why units were not matched, named in the message


@rule(
    "LS302",
    "loss barrier between models",
    severity="warn",
    needs=(),
    over="landscape",
    ref="Frankle et al., ICML 2020; Draxler et al., ICML 2018",
)
def different_basins(pairs: Pairs) -> Verdict | None:
    """Some pairs of models have a loss barrier between them: as they are, they should not be averaged.

    **What it means.** Somewhere on the straight line between the models, the loss is higher than the line that connects
    the losses of its ends. Averaging such models (model soups, federated averaging, model crossover) gives a model that
    is worse than either.

    **Evidence.** The number of pairs with a loss barrier above the tolerance, and the highest barrier.

    **Caveats.** The barrier is that of the straight line only. A curved path may avoid it, and permutation alignment
    may remove it (LS303). With interpolated batch-norm statistics, most of the barrier may come from these statistics
    (LS304). Where some hidden units could not be matched, the message says so: then the models may share a basin.

    **What to try.** Align the hidden units first (``layerscope.align``), or fine-tune from a shared warm-up. Otherwise
    keep the models separate and average their predictions.
    """
    apart = [pair for pair in pairs.apart if math.isfinite(pair.barriers[pairs.first])]
    if not apart:
        return None
    worst = max(apart, key=lambda pair: pair.barriers[pairs.first])
    height = worst.barriers[pairs.first]
    a, b = worst.names
    observed = (
        f"{len(apart)} of {len(pairs.all_pairs)} pairs have a loss barrier above {pairs.tolerance:.3g}; the highest, "
        f"between {a} and {b}, is {height:.3g}. "
    )
    if pairs.unmatched:
        reasons = "; ".join(pairs.unmatched[:MAX_REASONS])
        message = (
            f"{observed}Some hidden units could not be matched ({reasons}), so this does not show whether the models "
            "lie in different basins or only order their units differently. Average predictions instead of weights, or "
            "name the units that belong together (groups= in Python)."
        )
    else:
        message = (
            f"{observed}These models lie in different basins, so averaging them usually gives a worse model. Align "
            "their hidden units first, or average predictions instead of weights."
        )
    return Verdict(message, height, pairs.tolerance)
