"""LS305."""

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
    holed = [pair for pair in pairs.every if pair.holes]
    if not holed:
        return None
    points = sum(pair.holes for pair in holed)
    return Verdict(f"{points} points on the lines of {len(holed)} of {len(pairs.every)} pairs have no value", points, 0)
