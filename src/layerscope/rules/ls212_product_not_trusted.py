"""Rule LS212: λmax of K-FAC's product is far from λmax of the exact Fisher block."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

MAX_RATIO = 3.0  # factor up to which product and block agree in λmax
SAMPLE_FLOOR_FACTOR = 2.0  # times the floor; below, the exact value depends on the sample


@rule(
    "LS212",
    "K-FAC product is inaccurate",
    severity="info",
    needs=("kfac_ratio", "lambda_max_exact", "sample_floor"),
    ref="Martens & Grosse, ICML 2015",
)
def product_not_trusted(layer: LayerReport, settings: Settings) -> Verdict | None:
    """λmax(S_x)·λmax(S_d) differs by more than a factor of three from λmax of the Fisher block that it approximates.

    **What it means.** K-FAC assumes that the inputs and the output gradients of a layer are independent. If they are
    not, the spectrum of the product is not that of the block.

    **Evidence.** Both values, and the floor max ‖gᵢ‖²/N, below which λmax of a block of N examples cannot fall.

    **Caveats.** Near this floor the exact value depends on the sample, so measure on more examples.

    **What to try.** Read the exact columns of this layer (lambda_max_exact and the κ of the block) instead of the
    product.
    """
    ratio, exact = float(layer.metrics["kfac_ratio"]), float(layer.metrics["lambda_max_exact"])
    if 1 / MAX_RATIO <= ratio <= MAX_RATIO:
        return None
    is_near_floor = exact < SAMPLE_FLOOR_FACTOR * float(layer.metrics["sample_floor"])
    caveat = "; with so few examples the exact value is near its floor" if is_near_floor else ""
    message = (
        f"λmax of K-FAC's product is {ratio:.2g} times that of the exact Fisher block "
        f"(expected: {1 / MAX_RATIO:.2f} to {MAX_RATIO:g}){caveat}. Inputs and output gradients are not independent. "
        "Read the exact columns of this layer."
    )
    return Verdict(message, ratio, MAX_RATIO)
