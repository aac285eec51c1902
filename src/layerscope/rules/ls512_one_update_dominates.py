"""Rule LS512: one model changed much more than the others."""

from __future__ import annotations

from statistics import median

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.merge_facts import Merge
from layerscope.settings import Settings

TIMES = 5.0  # the norm of one task vector over the median of the others


@rule("LS512", "one update dominates", severity="warn", needs=(), over="merge", ref="Yadav et al., NeurIPS 2023 (TIES)")
def one_update_dominates(merge: Merge, settings: Settings) -> Verdict | None:
    """The task vector of one model is five times larger than those of the others.

    **What it means.** A mean with equal weights is that model, with little of the others.

    **Evidence.** ‖Wᵢ − W₀‖ of each model, over all tensors.

    **Caveats.** A large update can be the one that matters.

    **What to try.** Lower its weight: --emit mergekit writes weights that balance the norms.
    """
    norms = {n: v for n, v in zip(merge.check.names, merge.check.whole.norms, strict=True) if v > 0}
    if len(norms) < 2:
        return None
    name = max(norms, key=lambda key: norms[key])
    others = median(value for key, value in norms.items() if key != name)
    if norms[name] < TIMES * others:
        return None
    return Verdict(
        f"The update of {name} is {norms[name] / others:.1f} times larger than the median of the others. A mean with "
        "equal weights is nearly that model. Lower its weight (--emit mergekit balances the norms).",
        norms[name] / others,
        TIMES,
    )
