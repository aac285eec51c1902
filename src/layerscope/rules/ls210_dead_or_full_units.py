"""Many units behind a ReLU are never active, or always."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS210",
    "dying or full neurons",
    severity="warn",
    needs=("dying", "full"),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), §4.3",
)
def neurons(layer: LayerReport, settings: Settings) -> Verdict | None:
    """More than a tenth of the units behind the layer's ReLU are never active, or always.

    **What it means.** A unit that no example activates passes no gradient: it is lost, and an exact zero in the
    spectra of this layer's gradients and of the next one's inputs. One that every example activates is linear and
    adds to the mean of what the next layer sees.

    **Evidence.** Counted over all examples and positions that ran through the model, not averaged over batches;
    exactly zero is inactive.

    **Caveats.** Few examples make many such units: at 16 examples a fifth of a layer looked dead of which 1,700
    examples left a twelfth. Right behind a batch norm with its initial β there are none; learned β can make them.

    **What to try.** More data before believing it; a smaller rate, a normalisation before the ReLU, a leaky ReLU.
    """
    facts, limit = layer.parts["weight"].facts, settings.limits.dead_units
    shares = {name: float(layer.metrics[name]) / facts["units"] for name in ("dying", "full")}
    if max(shares.values()) <= limit:
        return None
    units, examples = int(facts["units"]), int(facts["examples"])
    message = f"of {units:,} units {layer.metrics['dying']} are never active and {layer.metrics['full']} always"
    message += f", in {examples:,} examples"
    return Verdict(message, max(shares.values()), limit)
