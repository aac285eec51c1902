"""Rule LS310: the average of all models has a lower loss than each of them."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs


@rule(
    "LS310",
    "average is better than every model",
    severity="info",
    needs=(),
    over="landscape",
    ref="Izmailov et al., UAI 2018; Wortsman et al., ICML 2022",
)
def mean_is_better(pairs: Pairs) -> Verdict | None:
    """The average of all models has a lower loss than each of them.

    **What it means.** The models lie around the center of one basin, and their average lies closer to its lowest point.

    **Evidence.** The loss of the average of all weights, with batch-norm statistics recomputed, and the lowest loss of
    a single model, on the same examples.

    **Caveats.** Check the average on examples that were not used to choose any of the models.

    **What to try.** Use the average instead of a single model.
    """
    if not pairs.mean < pairs.best:
        return None
    message = (
        f"The average of all models has a loss of {pairs.mean:.3g}, the best single model {pairs.best:.3g}. "
        "The models probably lie around the center of one basin. Use the average, after a check on other examples."
    )
    return Verdict(message, pairs.mean, pairs.best)
