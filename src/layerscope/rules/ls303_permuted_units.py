"""Rule LS303: aligning hidden units lowers the loss barrier between models."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs


@rule(
    "LS303",
    "aligning hidden units lowers the barrier",
    severity="info",
    needs=(),
    over="landscape",
    ref="Entezari et al., ICLR 2022; Ainsworth et al., ICLR 2023",
)
def order_of_units(pairs: Pairs) -> Verdict | None:
    """A loss barrier disappears after the hidden units of one model are aligned with those of the other.

    **What it means.** Permuting the units of a layer, together with the matching rows and columns of the weights, does
    not change what a network computes but moves it far in parameter space. These models found the same solution up to
    such a permutation.

    **Evidence.** After permutation alignment by weight matching, the barrier is at most the tolerance or a fifth of its
    previous value. The permuted model computes the same function. If alignment is not enough, the barrier is also
    measured after correcting the means and standard deviations of the units (REPAIR).

    **Caveats.** Weight matching finds a good permutation, not the best one. If it fails, that shows nothing.

    **What to try.** Align the models (``layerscope.align``), with REPAIR if the message names it, and average them
    afterwards.
    """
    apart = pairs.apart
    removed = [pair for pair in apart if pairs.is_removed(pair, "aligned", pairs.first)]
    reduced = [p for p in apart if p not in removed and p.barriers.get("aligned", math.inf) < p.barriers[pairs.first]]
    repaired = [p for p in reduced if pairs.is_removed(p, "repaired", pairs.first)]
    if not removed and not repaired:
        return None
    of_pairs = f"in {{}} of {len(apart)} pairs with a barrier"
    observed = [f"Alignment removes most of the loss barrier {of_pairs.format(len(removed))}"] if removed else []
    if repaired:
        observed.append(f"Alignment and REPAIR together remove most of it {of_pairs.format(len(repaired))}")
    left = max([p.barriers["aligned"] for p in removed] + [p.barriers["repaired"] for p in repaired])
    usable = "before averaging" if left <= pairs.tolerance else "and measure the average before you use it"
    message = (
        f"{'; '.join(observed)}; at most {max(left, 0.0):.3g} is left (tolerance: {pairs.tolerance:.3g}). Most of what "
        "separates these models is a permutation of hidden units. "
        f"Align them (layerscope.align in Python{', with REPAIR' if repaired else ''}) {usable}."
    )
    return Verdict(message, float(len(removed) + len(repaired)), 0.0)
