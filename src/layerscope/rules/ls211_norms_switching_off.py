"""The last batch norms switch features off: their shifts β turned negative."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

MAX_NEGATIVE_SHARE = 0.9  # share of shifts below zero
MIN_INPUT_DECREASE = 10.0  # times, of λmax of the last layer's inputs since the first measurement


@rule(
    "LS211",
    "features are being switched off",
    severity="warn",
    needs=("beta_negative", "lambda_max_x"),
    over="model",
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), §5",
)
def norms_switching_off(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """The shifts β of the last batch norms have turned negative, and what reaches the last layer has shrunk.

    **What it means.** After an overshoot of the last layer's weight, the cheapest way to a lower loss is to send
    nothing: all β of the last blocks are pushed below zero, the ReLUs behind them output nothing, the logits become
    the bias and the loss that of guessing. It looks like a minimum and is none.

    **Evidence.** In the last third of the layers with a batch norm, the mean share of β below zero, above 0.9; and
    λmax(S_x) of the model's last layer a tenth or less of what it was at the first measurement (a monitor, or
    ``since=``).

    **Caveats.** Negative shifts alone make features sparse, which is no fault; both signs together are the signature.

    **What to try.** A batch norm before the last layer (``layerscope.with_last_bn``), a smaller rate at first, a
    warm-up.
    """
    shifted = [layer for layer in model if "beta_negative" in layer.metrics]
    last = [layer for layer in model if not layer.skipped and layer.parts["weight"].facts.get("final")]
    if not shifted or not last:
        return None
    late = shifted[-max(1, len(shifted) // 3) :]
    share = sum(float(layer.metrics["beta_negative"]) for layer in late) / len(late)
    first = last[-1].parts["weight"].facts.get("first_lambda_max_x", 0.0)
    now = float(last[-1].metrics.get("lambda_max_x", first))
    if share <= MAX_NEGATIVE_SHARE or first <= 0 or now * MIN_INPUT_DECREASE > first:
        return None
    message = f"{share:.0%} of β below zero in the last {len(late)} of {len(shifted)} layers with a batch norm"
    message += f"; λmax(Sx) of the last layer fell from {first:.3g} to {now:.3g}"
    return Verdict(message, share, MAX_NEGATIVE_SHARE)
