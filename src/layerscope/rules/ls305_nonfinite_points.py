"""Rule LS305: some points between models have no finite loss."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs
from layerscope.text import plural


@rule(
    "LS305", "points without a finite loss", severity="warn", needs=(), over="landscape", ref="Li et al., NeurIPS 2018"
)
def holes_between(pairs: Pairs) -> Verdict | None:
    """Some points on the line between two models have no finite loss (holes).

    **What it means.** Weights or activations overflow there, a batch-norm variance is negative, or the evaluation
    failed. An accuracy at chance level can be such a point in disguise: the largest of several NaN logits is the first
    class.

    **Evidence.** The number of points of the lines without a finite loss. They are excluded from every barrier, and the
    pair counts as separated.

    **Caveats.** None: no value is filled in.

    **What to try.** Recompute batch-norm statistics, evaluate in float32, or use a shorter span of the line.
    """
    pairs_with_holes = [pair for pair in pairs.all_pairs if pair.holes]
    if not pairs_with_holes:
        return None
    points = sum(pair.holes for pair in pairs_with_holes)
    count = f"{len(pairs_with_holes)} of {len(pairs.all_pairs)} pairs"
    message = (
        f"The loss is not finite at {plural(points, 'point')} on the lines of {count}. "
        "Usually weights or activations overflow there; these pairs count as separated. "
        "Recompute batch-norm statistics, or evaluate in float32."
    )
    return Verdict(message, points, 0)
