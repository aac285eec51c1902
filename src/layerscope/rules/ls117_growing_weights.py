"""Rule LS117: the weights of a training run still grow fast in its last third."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.settings import Settings

MIN_CHECKS = 6  # of a run, for a verdict on its last third


class RunTrend(NamedTuple):
    """A number of the whole model at each measured step of a run."""

    steps: Sequence[int]  # ascending
    log_norms: Sequence[float]  # mean of log₁₀‖W‖_F² over the layers

    @property
    def growth(self) -> float:
        """Growth over the last third of the steps."""
        begin = self.steps[-1] - (self.steps[-1] - self.steps[0]) / 3
        first = next(i for i, step in enumerate(self.steps) if step >= begin - 1e-9)
        return self.log_norms[-1] - self.log_norms[min(first, len(self.steps) - 2)]


@rule(
    "LS117",
    "weights still grow fast",
    severity="info",
    needs=("log_norm",),
    over="run",
    ref="docs: What the verdicts are worth (rule chosen on four families of networks and measured on four others)",
)
def growing_weights(run: RunTrend, settings: Settings) -> Verdict | None:
    """The squared norm of the weights grew by more than 0.1 decades (26 %) in the last third of a training run.

    **What it means.** The run memorizes more often than others: weights grow on while the test accuracy falls.

    **Evidence.** The mean over the layers of log₁₀‖W‖_F² at each measured step; at least six steps.

    **Caveats.** On 368 small networks, the rule was chosen on four families and measured on four others: it was given
    to 25 of their 184 runs, and 56 % of these had lost more than three points of test accuracy since their best check
    (38 to 73 %; of all runs, 20 %). It found 38 % of such runs, with 7 % false alarms. A run that has just begun, or
    whose learning rate is still high, grows too.

    **What to try.** Evaluate the checkpoints on held-out data, and keep the best one. Weight decay or a schedule that
    lowers the learning rate stops the growth.
    """
    limit = settings.limits.norm_growth
    if len(run.steps) < MIN_CHECKS or run.growth <= limit:
        return None
    message = (
        f"log₁₀‖W‖² grew by {run.growth:.2f} in the last third of the run (limit: {limit:g}). About half of such runs "
        "have lost test accuracy since their best check. Evaluate the checkpoints on held-out data."
    )
    return Verdict(message, run.growth, limit)
