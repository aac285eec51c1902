"""Rule LS115: a single weight is far larger than all others, in this layer alone."""

from __future__ import annotations

import numpy as np

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.model_layers import ModelLayers
from layerscope.settings import Settings

MIN_RATIO = 20.0  # of the weight to the root mean square of the layer
MAX_SHARE = 0.1  # of the layers that have a weight of this size; one layer always may


@rule(
    "LS115",
    "isolated outlier weight",
    severity="warn",
    needs=("largest_weight",),
    own=True,
    ref="ours; Yu et al., arXiv 2411.07191 (single weights on which language models depend)",
)
def isolated_weight(layer: LayerReport, settings: Settings, model: ModelLayers) -> Verdict | None:
    """One to three weights are far larger than all others of the layer, and hardly any other layer has such weights.

    **What it means.** A damaged file (a flipped bit in an exponent), a step of training that blew up, or a weight on
    which the model depends. The message names the weight.

    **Evidence.** The largest weight is at least 20 times the root mean square of the layer, the fourth largest is at
    most 10 times as large, and at most one layer in ten (but at least one) has a weight of that size.

    **Caveats.** Language models have single weights of this kind on purpose, in the down-projections of their first
    blocks. There, several layers have them, and the verdict is not given.

    **What to try.** Compare the weight with an earlier checkpoint or with another copy of the file. If they differ,
    copy the file again.
    """
    facts = layer.parts["weight"].facts
    if not _is_isolated(layer) or layer.ref.kind == "embedding":
        return None
    such = sum(_is_isolated(other) for other in model)
    if such > max(1, MAX_SHARE * sum(not other.skipped for other in model)):
        return None
    ratio = facts["largest_ratio"]
    entry = ", ".join(str(int(i)) for i in np.unravel_index(int(facts["largest_index"]), layer.ref.shape))
    message = (
        f"Weight [{entry}] = {facts['largest_value']:.3g} is {ratio:.3g} times the root mean square of the "
        f"layer (limit: {MIN_RATIO:g}), and no other weight is near it. Compare it with an earlier checkpoint or with "
        "another copy of the file."
    )
    return Verdict(message, ratio, MIN_RATIO)


def _is_isolated(layer: LayerReport) -> bool:
    facts = layer.parts["weight"].facts
    return facts.get("largest_ratio", 0.0) >= MIN_RATIO and facts.get("fourth_ratio", 0.0) == 0
