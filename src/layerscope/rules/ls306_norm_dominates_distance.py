"""Rule LS306: the distance between models is mostly a difference of their norms."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Apart

MAX_LENGTH_SHARE = 0.5  # share of the squared distance above which it is mostly a difference of norms
MIN_SYMMETRIC_DISTANCE = 0.01  # below, two models count as equal


@rule(
    "LS306",
    "models differ mostly in norm",
    severity="info",
    needs=(),
    over="landscape",
    ref="Li et al., NeurIPS 2018; Zhang et al., ICLR 2019",
)
def length_not_angle(apart: Sequence[Apart]) -> Verdict | None:
    """Most of the distance between two models is a difference of their norms, not of their directions.

    **What it means.** Weight decay causes such a difference, or a scale that batch norms cancel. The distance then says
    little about how different the functions of the models are.

    **Evidence.** The share (‖a‖ − ‖b‖)²/‖a − b‖² of the squared distance.

    **Caveats.** In a network without normalization, scaling all layers does change its outputs.

    **What to try.** Compare the models by their cosine, or by their outputs.
    """
    length_dominated = [
        pair for pair in apart if pair.length > MAX_LENGTH_SHARE and pair.symmetric > MIN_SYMMETRIC_DISTANCE
    ]
    if not length_dominated:
        return None
    largest_share = max(pair.length for pair in length_dominated)
    count = f"{len(length_dominated)} of {len(apart)} pairs"
    message = (
        f"In {count}, a difference of norms accounts for up to {largest_share:.0%} of the squared distance (limit: "
        f"{MAX_LENGTH_SHARE:.0%}). Weight decay or scales before batch norms can cause it. "
        "Compare the models by their cosine or their outputs."
    )
    return Verdict(message, largest_share, MAX_LENGTH_SHARE)
