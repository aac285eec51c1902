"""Rule LS308: a plane does not represent the training run drawn on it."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Route

MAX_RELATIVE_GAP = 0.1  # share of the range of the run's losses


@rule(
    "LS308",
    "plane does not represent the run",
    severity="warn",
    needs=(),
    over="landscape",
    ref="Antognini & Sohl-Dickstein, NeurIPS 2018; Li et al., NeurIPS 2018",
)
def plane_not_path(route: Route) -> Verdict | None:
    """The plane does not represent the training run that is drawn on it.

    **What it means.** Where the run leaves the plane, the contours under its path belong to other models, and the loss
    of the checkpoints is a different one. Axes that explain no more of the path than those of a random walk show no
    structure.

    **Evidence.** The largest difference between the loss of a checkpoint and the loss at its projection onto the plane,
    relative to the range of the checkpoints' losses. The shares of variance along the two axes, compared with those of
    a random walk in many dimensions (61 % and 15 %).

    **Caveats.** Shares are larger if the path is centered on the last checkpoint instead of its mean.

    **What to try.** Read the losses of the checkpoints themselves, or draw a plane through three of them.
    """
    reasons = []
    if route.gap > MAX_RELATIVE_GAP * route.spread > 0:
        reasons.append(
            f"the loss on the plane differs from that of the checkpoints by up to {route.gap:.3g}, "
            f"{route.gap / route.spread:.0%} of the run's range (limit: {MAX_RELATIVE_GAP:.0%})"
        )
    if sum(route.shares) <= sum(route.walk):
        reasons.append(
            f"the plane explains {sum(route.shares):.0%} of the path's variance (a random walk: {sum(route.walk):.0%})"
        )
    if not reasons:
        return None
    text = "; ".join(reasons)
    message = (
        f"{text[0].upper()}{text[1:]}. The contours do not describe the run. "
        "Read the losses of the checkpoints, or draw a plane through three of them."
    )
    return Verdict(message, route.gap, MAX_RELATIVE_GAP * route.spread)
