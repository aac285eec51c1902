"""Rule LS213: some weights of the model could not be measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.records.layers import NOT_SELECTED, LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings
from layerscope.text import plural


@rule(
    "LS213",
    "weights not measured",
    severity="info",
    needs=("lambda_max_x",),
    over="model",
    ref="layerscope: what hooks see",
)
def not_measured(model: Sequence[LayerReport], settings: Settings) -> Verdict | None:
    """Some weights of the model were not measured, so statements about the whole model exclude them.

    **What it means.** Possible reasons: the module was not called, it received no gradient, the product is computed
    inside ``nn.MultiheadAttention``, the weight is an embedding or is parametrized, or its values are not finite.

    **Evidence.** The number of weights with two or more axes that were not measured, by reason. Each one is listed
    among the skipped tensors.

    **Caveats.** None of them needs to be a mistake: a head that this loss does not use receives no gradient.

    **What to try.** Read the reasons. Use a loss and inputs that reach every module that you want to measure.
    """
    reasons = Counter(
        layer.skipped for layer in model
        if layer.skipped and layer.skipped != NOT_SELECTED and len(layer.ref.shape) > 1
    )  # fmt: skip
    if not reasons:
        return None
    listed = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common())
    message = (
        f"{plural(reasons.total(), 'weight')} could not be measured: {listed}. "
        "Statements about the model exclude them. "
        "Use inputs and a loss that reach every module you want to measure."
    )
    return Verdict(message, reasons.total(), 0)
