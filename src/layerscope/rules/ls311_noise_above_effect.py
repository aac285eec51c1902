"""There are too few examples to decide whether there is a loss barrier."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs


@rule(
    "LS311", "too few examples to tell", severity="info", needs=(), over="landscape", ref="Entezari et al., ICLR 2022"
)
def noise_above_effect(pairs: Pairs) -> Verdict | None:
    """The standard error of a barrier is as large as the tolerance that decides on it.

    **What it means.** On other examples these pairs might fall on the other side.

    **Evidence.** Barriers within two standard errors of the tolerance, over the examples, the same at every point.

    **Caveats.** The error is of these examples as a sample; that training runs differ is not in it.
    """
    undecided = [pair for pair in pairs.all_pairs if abs(pair.barriers[pairs.first] - pairs.tolerance) < 2 * pair.error]
    if not undecided:
        return None
    count = f"{len(undecided)} of {len(pairs.all_pairs)} pairs"
    message = f"{count} lie within two standard errors of the tolerance, {pairs.tolerance:.3g}"
    return Verdict(message, float(len(undecided)), 0.0)
