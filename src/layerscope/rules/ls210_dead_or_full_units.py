"""Rule LS210: many units after a ReLU are never active, or always active."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS210",
    "dead or always-active units",
    severity="warn",
    needs=("dying", "full"),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), §4.3",
)
def neurons(layer: LayerReport, settings: Settings) -> Verdict | None:
    """More than a tenth of the units after the layer's ReLU are never active, or always active.

    **What it means.** A unit that no example activates passes no gradient and cannot learn. It is an exact zero in the
    spectra of this layer's gradients and of the next layer's inputs. A unit that every example activates is linear and
    adds to the mean of the next layer's inputs.

    **Evidence.** Counted over all examples and positions that were run through the model, not averaged over batches. An
    output of exactly zero is inactive.

    **Caveats.** With few examples many units look dead: with 16 examples a fifth of a layer did, with 1,700 examples a
    twelfth. Directly after a batch norm with its initial β there are none; a learned β can create them.

    **What to try.** Measure on more examples first. Then try a lower learning rate, normalization before the ReLU, or a
    leaky ReLU.
    """
    facts, limit = layer.parts["weight"].facts, settings.limits.dead_units
    shares = {name: float(layer.metrics[name]) / facts["units"] for name in ("dying", "full")}
    if max(shares.values()) <= limit:
        return None
    units, examples = int(facts["units"]), int(facts["examples"])
    message = (
        f"Of {units:,} units, {layer.metrics['dying']} are never active and {layer.metrics['full']} always active in "
        f"{examples:,} examples (limit: {limit:.0%} of the units). "
    )
    if layer.metrics["dying"] == units:
        message += (
            "No unit passes its input on, so training cannot repair this layer. Initialize it again, and train with a "
            "lower learning rate or normalization before the ReLU."
        )
    else:
        message += (
            "Units that are never active cannot learn; units that are always active are linear. Measure on more "
            "examples, then try a lower learning rate or normalization before the ReLU."
        )
    return Verdict(message, max(shares.values()), limit)
