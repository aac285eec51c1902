"""α depends on a few isolated large eigenvalues."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS108",
    "fingers",
    severity="info",
    needs=("alpha", "num_fingers"),
    ref="Martin & Mahoney, JMLR 22(165), §5 (finite-size effects)",
)
def fingers(layer: LayerReport, settings: Settings) -> Verdict | None:
    """A few of the largest eigenvalues stand apart, and α hangs on them.

    **What it means.** Without these eigenvalues α is lower by more than the threshold (1 by default). They are a
    finite-size artefact: in a larger layer they would be part of the tail.

    **Evidence.** How many eigenvalues are clipped, α with and without them. Measured with --evidence, and with
    --fix-fingers clip_xmax, which reports the clipped α.

    **Caveats.** The count is the smallest that moves α by so much, not the number of outliers. A layer with few
    eigenvalues in its tail moves easily; read the interval of α beside it.
    """
    count = int(layer.metrics["num_fingers"])
    if count == 0:
        return None
    raw = float(layer.metrics["raw_alpha"])
    clipped = float(layer.metrics.get("alpha_clipped", layer.metrics["alpha"]))
    message = f"α = {raw:.2f}, {clipped:.2f} without the {count} largest eigenvalue{'s' * (count != 1)}"
    return Verdict(message, raw - clipped, settings.finger_thresh)
