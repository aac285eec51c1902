"""A plane does not represent the training run drawn on it."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Route

MAX_RELATIVE_GAP = 0.1  # of the range of the run's losses


@rule(
    "LS308",
    "the plane is not the path",
    severity="warn",
    needs=(),
    over="landscape",
    ref="Antognini & Sohl-Dickstein, NeurIPS 2018; Li et al., NeurIPS 2018",
)
def plane_not_path(route: Route) -> Verdict | None:
    """A run drawn on a plane that does not hold it.

    **What it means.** Contours under the path are those of other models than the path's: where it leaves the plane, its
    loss is another one. And two directions that explain no more than those of a random walk show no structure.

    **Evidence.** The largest difference between the loss of a checkpoint and that of its place on the plane, over the
    spread of the checkpoints' losses; the shares of variance beside 61 % and 15 %, a random walk's of many dimensions.

    **Caveats.** Centred on the last checkpoint shares are larger than centred on the mean.

    **What to try.** Read the losses of the checkpoints themselves; a plane through three of them.

    """
    reasons = []
    if route.gap > MAX_RELATIVE_GAP * route.spread > 0:
        reasons.append(
            f"the plane's loss is off by up to {route.gap:.3g}, {route.gap / route.spread:.0%} of the run's range"
        )
    if sum(route.shares) <= sum(route.walk):
        reasons.append(f"it explains {sum(route.shares):.0%} of the path, a random walk's {sum(route.walk):.0%}")
    return Verdict("; ".join(reasons), route.gap, MAX_RELATIVE_GAP * route.spread) if reasons else None
