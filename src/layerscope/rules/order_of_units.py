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
    computes the same.

    **Caveats.** Matching finds an order, not the best one: that it fails shows nothing.
    """
    apart = pairs.apart
    mended = [pair for pair in apart if pairs.mended(pair, "aligned", pairs.first)]
    if not mended:
        return None
    told = f"in {len(mended)} of {len(apart)} pairs with a barrier, putting the units into one order removes it"
    return Verdict(told, float(len(mended)), 0.0)
