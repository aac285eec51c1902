"""Some weights of the model could not be measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import NOT_SELECTED, LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS213",
    "weights that could not be measured",
    severity="info",
    needs=("lambda_max_x",),
    over="model",
    ref="layerscope: what hooks see",
)
def not_measured(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """Some matrices of the model have no factors: what is said of the model leaves them out.

    **What it means.** A module that is registered and not called, one from which no gradient came back, products
    inside ``nn.MultiheadAttention``, embeddings, parametrised weights, values that are not finite.

    **Evidence.** How many weights of two axes or more, by reason; each is listed among the skipped.

    **Caveats.** None of them need be at fault: a head that this loss does not use gets no gradient.
    """
    reasons = Counter(
        layer.skipped for layer in model
        if layer.skipped and layer.skipped != NOT_SELECTED and len(layer.ref.shape) > 1
    )  # fmt: skip
    if not reasons:
        return None
    message = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
    return Verdict(message, reasons.total(), 0)
