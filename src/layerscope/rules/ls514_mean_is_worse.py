"""Rule LS514: the mean of the models has a higher loss than the best of them."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.merge_facts import Merge
from layerscope.settings import Settings


@rule(
    "LS514", "mean is worse than its parts", severity="warn", needs=(), over="merge", ref="Wortsman et al., ICML 2022"
)
def mean_is_worse(merge: Merge, settings: Settings) -> Verdict | None:
    """On the given data, the mean of the models has a higher loss than the best single model.

    **What it means.** On these data, use the best model instead of the mean.

    **Evidence.** The loss of every model and of the mean with equal weights.

    **Caveats.** A mean serves several tasks: on the data of one of them, the model of that task is expected to win.

    **What to try.** Evaluate on data of all tasks, or merge with other weights.
    """
    losses = {name: metrics["loss"] for name, metrics in merge.check.losses.items() if "loss" in metrics}
    parts = {name: loss for name, loss in losses.items() if name not in ("base", "mean")}
    if "mean" not in losses or not parts:
        return None
    best = min(parts, key=lambda name: parts[name])
    rise = losses["mean"] - parts[best]
    if rise <= 0:
        return None
    return Verdict(
        f"The mean has a loss of {losses['mean']:.4g}, {rise:.2g} above {best} ({parts[best]:.4g}). On these data, use "
        f"{best}. Evaluate on data of all tasks before deciding.",
        losses["mean"],
        parts[best],
    )
