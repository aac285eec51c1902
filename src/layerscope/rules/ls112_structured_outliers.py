"""Rule LS112: the outlier weights lie on the diagonal, in one output or in one input."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.outlier_structure import structure_of_outliers
from layerscope.settings import Settings


@rule(
    "LS112",
    "outliers have a structure",
    severity="info",
    needs=("rand_num_spikes", "max_traps"),
    ref="Le, Jaitly & Hinton, arXiv 1504.00941 (identity initialization of recurrent matrices); ours",
)
def structured_outliers(layer: LayerReport, settings: Settings) -> Verdict | None:
    """Nearly all outlier weights lie on the diagonal, in one output or in one input.

    **What it means.** Shuffling destroys a diagonal, a row or a column, so its large weights become outliers of the
    shuffles. Layers near the identity (1×1 convolutions, recurrent matrices) have a large diagonal by design. One
    output or one input with much larger weights than the others is a unit of another scale.

    **Evidence.** The positions of the outlier weights that LS104 would name: at least 80 % of them lie there. Measured
    with --randomize only.

    **Caveats.** Two outliers can lie on the diagonal by chance.

    **What to try.** Nothing for a diagonal. For one output or input, check its scale and the normalization before it.
    """
    structure = structure_of_outliers(layer, settings)
    if not structure:
        return None
    mean = layer.metrics["rand_num_spikes"]
    if structure == "diagonal":
        message = (
            f"The outlier weights lie on the diagonal ({mean:.3g} eigenvalues of each shuffle are beyond the edge). "
            "The layer is near the identity, which is no fault."
        )
    else:
        message = (
            f"The outlier weights lie in {structure} ({mean:.3g} eigenvalues of each shuffle are beyond the edge). "
            "This unit has another scale than the others. Check the normalization before it."
        )
    return Verdict(message, mean, 0)
