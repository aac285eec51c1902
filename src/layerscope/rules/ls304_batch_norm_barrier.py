"""Recomputing batch-norm statistics removes the loss barrier between models."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs


@rule(
    "LS304",
    "a barrier of statistics",
    severity="info",
    needs=(),
    over="landscape",
    ref="Jordan et al., ICLR 2023 (REPAIR)",
)
def barrier_of_statistics(pairs: Pairs) -> Verdict | None:
    """A barrier that goes when the statistics of batch norms are computed anew at every point.

    **What it means.** Mixed running statistics are not those of the mixed network: what looks like a mountain range is
    a mistake of the mixture.

    **Evidence.** The barrier with interpolated statistics against that with statistics recomputed on the calibration
    data.

    **Caveats.** Recomputing needs data, a few hundred examples without labels.
    """
    removed = [pair for pair in pairs.all_pairs if pairs.is_removed(pair, "recompute", "interpolate")]
    if not removed:
        return None
    of_pairs = f"of {len(removed)} of {len(pairs.all_pairs)} pairs"
    message = f"{of_pairs} the barrier is one of interpolated batch-norm statistics: recompute them"
    return Verdict(message, float(len(removed)), 0.0)
