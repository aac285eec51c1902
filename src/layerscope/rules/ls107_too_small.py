"""Rule LS107: the layer has too few eigenvalues for a power-law fit."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS107",
    "too few eigenvalues to fit",
    severity="info",
    needs=("num_evals",),
    ref="Clauset, Shalizi & Newman, SIAM Rev. 51 (2009) (about 50 points as a rule of thumb)",
)
def too_small(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The layer has too few eigenvalues for a power-law fit, so only norms and ranks are measured.

    **What it means.** With fewer than 50 eigenvalues, α is mostly chance and is not computed. Norms, ranks and entropy
    are measured all the same.

    **Evidence.** The number of eigenvalues compared with min_evals.

    **Caveats.** --min-evals lowers the limit (WeightWatcher uses 8), but the additional values of α are mostly noise.
    """
    count = int(layer.metrics["num_evals"])
    if count < settings.min_evals:
        counted = f"{count} eigenvalue{'s' * (count != 1)}"
        message = (
            f"{counted}, but a power-law fit needs {settings.min_evals}. "
            "With fewer, α would be mostly chance. Use the norms and ranks of this layer instead."
        )
        return Verdict(message, count, settings.min_evals)
    return None
