"""Rule LS304: recomputing batch-norm statistics removes the loss barrier between models."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import MIN_REMOVED_SHARE, Pairs


@rule(
    "LS304",
    "batch-norm statistics cause the barrier",
    severity="info",
    needs=(),
    over="landscape",
    ref="Jordan et al., ICLR 2023 (REPAIR)",
)
def barrier_of_statistics(pairs: Pairs) -> Verdict | None:
    """A loss barrier disappears if batch-norm statistics are recomputed at every point of the line.

    **What it means.** Interpolated running statistics are not those of the interpolated network. The barrier is an
    artifact of this interpolation, not a property of the weights.

    **Evidence.** The barrier with interpolated statistics compared with the barrier after the statistics are recomputed
    on the calibration examples.

    **Caveats.** Recomputing requires data: a few hundred examples, without labels.

    **What to try.** Recompute the statistics (the policy "recompute"), also after averaging models.
    """
    removed = [pair for pair in pairs.all_pairs if pairs.is_removed(pair, "recompute", "interpolate")]
    if not removed:
        return None
    message = (
        f"In {len(removed)} of {len(pairs.all_pairs)} pairs, recomputing batch-norm statistics removes at least "
        f"{MIN_REMOVED_SHARE:.0%} of the loss barrier (or all but {pairs.tolerance:.3g}). The barrier is an artifact "
        "of interpolated statistics. Recompute them after averaging."
    )
    return Verdict(message, float(len(removed)), 0.0)
