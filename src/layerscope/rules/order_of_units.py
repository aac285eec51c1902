"""LS303."""

from __future__ import annotations

from layerscope.rules import rule
from layerscope.rules._pairs import Pairs
from layerscope.types import Verdict


@rule(
    "LS303",
    "the same basin but for the order of units",
    severity="info",
    needs=(),
    over="landscape",
    ref="Entezari et al., ICLR 2022; Ainsworth et al., ICLR 2023",
)
def order_of_units(pairs: Pairs) -> Verdict | None:
    """A barrier that goes when one model's hidden units are put into the order of the other's.

    **What it means.** Permuting the units of a layer, with the rows and columns that belong to them, leaves a network
    as it is and moves it far in parameter space. These models found the same solution in another order.

    **Evidence.** The barrier after weight matching, at most the tolerance or a fifth of what it was; the permuted model
    computes the same. Where that does not do, the barrier with the units' means and spreads repaired as well.

    **Caveats.** Matching finds an order, not the best one: that it fails shows nothing.
    """
    apart = pairs.apart
    mended = [pair for pair in apart if pairs.mended(pair, "aligned", pairs.first)]
    repaired = [p for p in apart if p not in mended and pairs.mended(p, "repaired", pairs.first)]
    if not mended and not repaired:
        return None
    told = f"in {len(mended) + len(repaired)} of {len(apart)} pairs with a barrier, putting the units into one order "
    told += "takes four fifths of it away" + (f", in {len(repaired)} together with REPAIR" if repaired else "")
    return Verdict(told, float(len(mended) + len(repaired)), 0.0)
