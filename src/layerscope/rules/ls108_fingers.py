"""Rule LS108: α depends on a few isolated large eigenvalues."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS108",
    "isolated large eigenvalues",
    severity="info",
    needs=("alpha", "num_fingers"),
    ref="Martin & Mahoney, JMLR 22(165), §5 (finite-size effects)",
)
def fingers(layer: LayerReport, settings: Settings) -> Verdict | None:
    """α depends on a few isolated large eigenvalues.

    **What it means.** Without these eigenvalues, α falls by more than the threshold (1 by default). They are an
    artifact of the layer's finite size: in a larger layer they would be part of the tail. WeightWatcher calls them
    "fingers".

    **Evidence.** The number of eigenvalues removed, and α with and without them. Measured with --evidence, or with
    --fix-fingers clip_xmax, which reports α without them.

    **Caveats.** The count is the smallest number of eigenvalues that moves α by more than the threshold, not the number
    of outliers. A layer with few eigenvalues in its tail changes easily, so compare the change with the interval of α.

    **What to try.** Use the α without these eigenvalues (--fix-fingers clip_xmax) when you compare layers.
    """
    count = int(layer.metrics["num_fingers"])
    if count == 0:
        return None
    raw = float(layer.metrics["raw_alpha"])
    clipped = float(layer.metrics.get("alpha_clipped", layer.metrics["alpha"]))
    message = (
        f"α = {raw:.2f}, but {clipped:.2f} without the {count} largest eigenvalue{'s' * (count != 1)}. "
        "They stand apart from the tail, an artifact of the layer's finite size. "
        "Compare layers by the second value (--fix-fingers clip_xmax)."
    )
    return Verdict(message, raw - clipped, settings.finger_thresh)
