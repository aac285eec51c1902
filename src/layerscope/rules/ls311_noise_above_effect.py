"""Rule LS311: there are too few examples to decide whether there is a loss barrier."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs


@rule(
    "LS311", "too few examples to decide", severity="info", needs=(), over="landscape", ref="Entezari et al., ICLR 2022"
)
def noise_above_effect(pairs: Pairs) -> Verdict | None:
    """The standard error of a loss barrier is too large to decide whether the barrier exceeds the tolerance.

    **What it means.** On other examples, these pairs might be classified differently.

    **Evidence.** The number of barriers within two standard errors of the tolerance. The standard error is taken over
    the examples, which are the same at every point.

    **Caveats.** The standard error describes these examples as a sample. It does not include the difference between
    training runs.

    **What to try.** Evaluate on more examples.
    """
    undecided = [pair for pair in pairs.all_pairs if abs(pair.barriers[pairs.first] - pairs.tolerance) < 2 * pair.error]
    if not undecided:
        return None
    count = f"{len(undecided)} of {len(pairs.all_pairs)} pairs"
    message = (
        f"The loss barriers of {count} lie within two standard errors of the tolerance, {pairs.tolerance:.3g}. "
        "On other examples they might be classified differently. Evaluate on more examples."
    )
    return Verdict(message, float(len(undecided)), 0.0)
