"""Batch norms in training mode make the numbers depend on how the data were batched."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS214",
    "batch norms saw several batches",
    severity="info",
    needs=("lambda_max_x",),
    over="model",
    ref="Ioffe & Szegedy, ICML 2015",
)
def norms_over_batches(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """Batch norms in training mode normalised each batch by itself: the numbers depend on how the data were cut.

    **What it means.** In training mode an example's activations and gradients depend on the others of its batch, so
    that the same data in other batches give other factors.

    **Evidence.** Batch norms behind measured layers that were in training mode, and the number of batches.

    **Caveats.** It is the function that is trained, at this batch size; in evaluation mode it is another one.
    """
    facts = [layer.parts["weight"].facts for layer in model if not layer.skipped]
    norms = sum(bool(layer_facts.get("norm_training")) for layer_facts in facts)
    batches = max((layer_facts.get("batches", 1.0) for layer_facts in facts), default=1.0)
    if not norms or batches < 2:
        return None
    return Verdict(f"{norms} in training mode, over {batches:.0f} batches", batches, 1)
