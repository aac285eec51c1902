"""Rule LS211: the last batch norms switch features off, because their shifts β became negative."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

MAX_NEGATIVE_SHARE = 0.9  # share of negative shifts β
MIN_INPUT_DECREASE = 10.0  # factor by which λmax of the last layer's inputs fell since the first measurement


@rule(
    "LS211",
    "batch norms switch features off",
    severity="warn",
    needs=("beta_negative", "lambda_max_x"),
    over="model",
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), §5",
)
def norms_switching_off(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """The shifts β of the last batch norms have become negative, and the inputs of the last layer have shrunk.

    **What it means.** After the weight of the last layer overshoots, the fastest way to a lower loss is to output
    nothing. All β of the last blocks are pushed below zero, the ReLUs after them output zero, and the logits reduce to
    the bias. The loss is then that of guessing. It looks like a minimum but is not.

    **Evidence.** In the last third of the layers with a batch norm, on average more than 90 % of β are negative. In
    addition, λmax(S_x) of the model's last layer is a tenth or less of its value at the first measurement (by a monitor
    or ``since=``).

    **Caveats.** Negative shifts alone only make features sparse, which is no problem. The verdict requires both signs.

    **What to try.** Add a batch norm before the last layer (``layerscope.with_last_bn``), start with a lower learning
    rate, or use a warm-up.
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
    message = (
        f"{share:.0%} of β are below zero in the last {len(late)} of {len(shifted)} layers with a batch norm (limit: "
        f"{MAX_NEGATIVE_SHARE:.0%}), and λmax(Sx) of the last layer fell from {first:.3g} to {now:.3g}. The network "
        "switches its features off. Add a batch norm before the last layer, or start with a lower learning rate."
    )
    return Verdict(message, share, MAX_NEGATIVE_SHARE)
