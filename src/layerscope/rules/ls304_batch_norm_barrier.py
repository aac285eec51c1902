"""LS304."""

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
    mended = [pair for pair in pairs.every if pairs.mended(pair, "recompute", "interpolate")]
    if not mended:
        return None
    of = f"of {len(mended)} of {len(pairs.every)} pairs"
    told = f"{of} the barrier is one of interpolated batch-norm statistics: recompute them"
    return Verdict(told, float(len(mended)), 0.0)
