"""The distance between models is mostly a difference of their norms."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Apart

MAX_LENGTH_SHARE = 0.5  # of the squared distance, from which it is mostly length
MIN_SYMMETRIC_DISTANCE = 0.01  # below which two models are one


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
    length_dominated = [
        pair for pair in apart if pair.length > MAX_LENGTH_SHARE and pair.symmetric > MIN_SYMMETRIC_DISTANCE
    ]
    if not length_dominated:
        return None
    largest_share = max(pair.length for pair in length_dominated)
    count = f"{len(length_dominated)} of {len(apart)} pairs"
    message = f"{count}: up to {largest_share:.0%} of the squared distance is a difference of lengths"
    return Verdict(message, largest_share, MAX_LENGTH_SHARE)
