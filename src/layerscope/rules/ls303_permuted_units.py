"""Aligning hidden units removes the loss barrier between models."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs


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
    removed = [pair for pair in apart if pairs.is_removed(pair, "aligned", pairs.first)]
    reduced = [p for p in apart if p not in removed and p.barriers.get("aligned", math.inf) < p.barriers[pairs.first]]
    repaired = [p for p in reduced if pairs.is_removed(p, "repaired", pairs.first)]
    if not removed and not repaired:
        return None
    amount, of_pairs = f"four fifths of it, or all but {pairs.tolerance:.3g},", f"of {len(apart)} pairs with a barrier"
    messages = [f"in {len(removed)} {of_pairs} putting the units into one order takes {amount} away"] if removed else []
    if repaired:
        messages.append(f"in {len(repaired)} {of_pairs} that takes {amount} away only together with REPAIR")
    return Verdict("; ".join(messages), float(len(removed) + len(repaired)), 0.0)
