"""LS306."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Apart

SHARE = 0.5  # of the squared distance, from which it is mostly length
LEAST = 0.01  # symmetric distance below which two models are one


@rule(
    "LS306",
    "apart in length, not in direction",
    severity="info",
    needs=(),
    over="landscape",
    ref="Li et al., NeurIPS 2018; Zhang et al., ICLR 2019",
)
def length_not_angle(apart: Sequence[Apart]) -> Verdict | None:
    """Two models point the same way, and one is longer.

    **What it means.** Most of what is between them is a difference of lengths: weight decay, or a scale that batch
    norms take out again. The distance says little about what they compute.

    **Evidence.** The share (‖a‖ − ‖b‖)²/‖a − b‖² of the squared distance.

    **Caveats.** A scale of all layers does change what a network without norms computes.

    """
    long = [pair for pair in apart if pair.length > SHARE and pair.symmetric > LEAST]
    if not long:
        return None
    most = max(pair.length for pair in long)
    told = f"{len(long)} of {len(apart)} pairs: up to {most:.0%} of the squared distance is a difference of lengths"
    return Verdict(told, most, SHARE)
