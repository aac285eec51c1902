"""Some points between models have no finite loss."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs


@rule("LS305", "points without a value", severity="warn", needs=(), over="landscape", ref="Li et al., NeurIPS 2018")
def holes_between(pairs: Pairs) -> Verdict | None:
    """Somewhere between two models the loss is no number.

    **What it means.** Weights that overflow on the way, variances of batch norms below zero, or an evaluation that
    failed there. What looks like a plain of accuracy at chance may be that: the largest of no numbers is the first
    class.

    **Evidence.** How many points of the lines have no finite value; they are left out of every barrier, and the pair
    counts as separated.

    **Caveats.** None: nothing is filled in.

    **What to try.** Recomputed statistics, float32, a shorter span.
    """
    pairs_with_holes = [pair for pair in pairs.all_pairs if pair.holes]
    if not pairs_with_holes:
        return None
    points = sum(pair.holes for pair in pairs_with_holes)
    count = f"{len(pairs_with_holes)} of {len(pairs.all_pairs)} pairs"
    return Verdict(f"{points} points on the lines of {count} have no value", points, 0)
