"""Rule LS214: batch norms in training mode make the numbers depend on the batches."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS214",
    "batch norms in training mode",
    severity="info",
    needs=("lambda_max_x",),
    over="model",
    ref="Ioffe & Szegedy, ICML 2015",
)
def norms_over_batches(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """Batch norms in training mode normalized each batch separately, so the numbers depend on the batches.

    **What it means.** In training mode, the activations and gradients of an example depend on the other examples of its
    batch. The same data in different batches give different numbers.

    **Evidence.** The number of batch norms in training mode after measured layers, and the number of batches.

    **Caveats.** Training mode is the function that is actually trained, at this batch size. Evaluation mode is a
    different function.

    **What to try.** Measure with the batch size that you train with, or in evaluation mode (model.eval()).
    """
    facts = [layer.parts["weight"].facts for layer in model if not layer.skipped]
    norms = sum(bool(layer_facts.get("norm_training")) for layer_facts in facts)
    batches = max((layer_facts.get("batches", 1.0) for layer_facts in facts), default=1.0)
    if not norms or batches < 2:
        return None
    message = (
        f"{norms} layers are followed by a batch norm in training mode, measured over {batches:.0f} batches. "
        "The numbers depend on how the data were batched. "
        "Use the batch size that you train with, or evaluation mode (model.eval())."
    )
    return Verdict(message, batches, 1)
