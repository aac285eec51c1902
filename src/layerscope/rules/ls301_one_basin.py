"""Some models have no loss barrier between them: they can be averaged."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs


@rule(
    "LS301",
    "one basin",
    severity="info",
    needs=(),
    over="landscape",
    ref="Frankle et al., ICML 2020; Wortsman et al., ICML 2022",
)
def one_basin(pairs: Pairs) -> Verdict | None:
    """Models between which the loss does not rise: they are on one mountain and can be averaged.

    **What it means.** Along the straight line between two of them every model is as good as the chord of its ends.
    Their mean, and any mixture, works.

    **Evidence.** The barrier of the loss over the line, on the same examples everywhere, against a tolerance: two
    standard errors of the evaluation, or 2 % of the ends' mean loss. Batch-norm statistics by the stated policy.

    **Caveats.** Of these data and this loss. That a mean works does not make it better than its members.
    """
    connected = [pair for pair in pairs.all_pairs if pair.barriers[pairs.first] <= pairs.tolerance]
    if not connected:
        return None
    worst = max(pair.barriers[pairs.first] for pair in connected)
    count = f"{len(connected)} of {len(pairs.all_pairs)} pairs"
    message = f"{count} have no barrier above {pairs.tolerance:.3g}: they can be averaged"
    return Verdict(message, worst, pairs.tolerance)
