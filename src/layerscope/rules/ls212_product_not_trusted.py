"""λmax of K-FAC's product is far from λmax of the exact Fisher block."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

MAX_RATIO = 3.0  # up to which the product and the block agree in λmax
SAMPLE_FLOOR_FACTOR = 2.0  # times the floor of so few examples, below which the exact value is the sample's


@rule(
    "LS212",
    "K-FAC's product is far off",
    severity="info",
    needs=("kfac_ratio", "lambda_max_exact", "sample_floor"),
    ref="Martens & Grosse, ICML 2015",
)
def product_not_trusted(layer: LayerReport, settings: Settings) -> Verdict | None:
    """λmax(S_x)·λmax(S_d) and λmax of the block that it stands for differ by more than three times.

    **What it means.** K-FAC takes what comes in and what comes back as independent. Where they are not, the product's
    spectrum is not the block's: read the exact columns of this layer.

    **Evidence.** Both values; and the floor max ‖gᵢ‖²/N that λmax of a block of so few examples cannot fall below.

    **Caveats.** Near its floor the exact value is the sample's, not the data's: more examples decide.
    """
    ratio, exact = float(layer.metrics["kfac_ratio"]), float(layer.metrics["lambda_max_exact"])
    if 1 / MAX_RATIO <= ratio <= MAX_RATIO:
        return None
    is_near_floor = exact < SAMPLE_FLOOR_FACTOR * float(layer.metrics["sample_floor"])
    caveat = "; the exact value is near the floor of so few examples" if is_near_floor else ""
    return Verdict(f"the product's λmax is {ratio:.2g} times the block's{caveat}", ratio, MAX_RATIO)
