"""The average of all models has a lower loss than each of them."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs


@rule(
    "LS310",
    "the mean is better than all of them",
    severity="info",
    needs=(),
    over="landscape",
    ref="Izmailov et al., UAI 2018; Wortsman et al., ICML 2022",
)
def mean_is_better(pairs: Pairs) -> Verdict | None:
    """The model half-way between all of them has a lower loss than each.

    **What it means.** They lie on the slopes of one valley, and their mean nearer to its floor.

    **Evidence.** The loss of the mean of all weights, batch-norm statistics recomputed, and the least loss of one
    model, on the same examples.

    **Caveats.** Check it on data that chose none of them.
    """
    if not pairs.mean < pairs.best:
        return None
    return Verdict(f"loss {pairs.mean:.3g}; the best of them has {pairs.best:.3g}", pairs.mean, pairs.best)
