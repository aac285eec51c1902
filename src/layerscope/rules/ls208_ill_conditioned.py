"""The inputs or output gradients of the layer are ill-conditioned."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS208",
    "ill-conditioned",
    severity="info",
    needs=("lambda_max_x", "lambda_max_d"),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801), Property 2",
)
def ill_conditioned(layer: LayerReport, settings: Settings) -> Verdict | None:
    """Half of the directions of the inputs, or of the output-gradients, have ten thousand times less energy than
    one.

    **What it means.** Gradient descent needs about κ steps: what lies along the weak half is hardly learned.

    **Evidence.** κ₅₀ of a factor above 10⁴, from at least four rows per direction; with fewer the small eigenvalues
    are those of the sample.

    **Caveats.** Behind a ReLU the mean alone makes one large eigenvalue; adaptive optimisers mend part of it.

    **What to try.** A normalisation before the layer (inputs) or after it (gradients); whitening.
    """
    limit = settings.limits.ill_conditioned
    reasons = []
    worst = 0.0
    for role, suffix, what in (("input", "x", "inputs"), ("gradient", "d", "output-gradients")):
        part = layer.parts[role]
        value = layer.metrics.get(f"kappa_50_{suffix}")
        if value is None or part.spectrum is None or part.facts[f"{role}_rows"] < 4 * part.spectrum.m:
            continue
        if float(value) > limit:
            reasons.append(f"κ₅₀ of the {what} is {float(value):.2g}")
            worst = max(worst, float(value))
    if not reasons:
        return None
    energy = layer.metrics.get("mean_energy")
    mean = f"; {float(energy):.0%} of the largest is the inputs' mean" if energy is not None else ""
    return Verdict(" and ".join(reasons) + mean, worst, limit)
