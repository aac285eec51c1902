"""Rule LS301: some models have no loss barrier between them, so they can be averaged."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs


@rule(
    "LS301",
    "same basin",
    severity="info",
    needs=(),
    over="landscape",
    ref="Frankle et al., ICML 2020; Wortsman et al., ICML 2022",
)
def one_basin(pairs: Pairs) -> Verdict | None:
    """Some pairs of models have no loss barrier between them: they share a basin and can be averaged.

    **What it means.** The models are linearly mode-connected. On the straight line between two of them, the loss is
    never higher than the line that connects the losses of its ends. Their average works, and so does any other mixture.

    **Evidence.** The loss barrier along the line, measured on the same examples at every point, compared with a
    tolerance: two standard errors of the evaluation, or 2 % of the mean loss of the ends. Batch-norm statistics follow
    the policy stated in the result.

    **Caveats.** The result holds for these examples and this loss. That an average works does not make it better than
    its members.

    **What to try.** Average the models, and check the average on examples that were not used here.
    """
    connected = [pair for pair in pairs.all_pairs if pair.barriers[pairs.first] <= pairs.tolerance]
    if not connected:
        return None
    worst = max(pair.barriers[pairs.first] for pair in connected)
    count = f"{len(connected)} of {len(pairs.all_pairs)} pairs"
    message = (
        f"{count} have no loss barrier above {pairs.tolerance:.3g} (highest: {worst:.3g}). They share a basin, so "
        "their average is about as good as they are. Average them if you need a single model."
    )
    return Verdict(message, worst, pairs.tolerance)
