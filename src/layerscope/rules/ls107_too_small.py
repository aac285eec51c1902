"""The layer has too few eigenvalues for a power-law fit."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS107",
    "too small to fit",
    severity="info",
    needs=("num_evals",),
    ref="Clauset, Shalizi & Newman, SIAM Rev. 51 (2009) (about 50 points as a rule of thumb)",
)
def too_small(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The layer has too few eigenvalues for a tail: norms and ranks only.

    **What it means.** Of fewer than 50 eigenvalues an α is mostly chance, so none is given. Norms, ranks and entropy
    are measured all the same.

    **Evidence.** The number of eigenvalues beside min_evals.

    **Caveats.** --min-evals lowers the limit; WeightWatcher's is 8. What it then shows is mostly noise.
    """
    count = int(layer.metrics["num_evals"])
    if count < settings.min_evals:
        counted = f"{count} eigenvalue{'s' * (count != 1)}"
        return Verdict(f"{counted}, fewer than {settings.min_evals}: no α", count, settings.min_evals)
    return None
