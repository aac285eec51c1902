"""Rule LS208: the inputs or the output gradients of the layer are ill-conditioned."""

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
    """The inputs or the output gradients are ill-conditioned: half of their directions are ten thousand times weaker.

    **What it means.** Gradient descent needs about κ steps. Whatever lies along the weak half of the directions is
    hardly learned.

    **Evidence.** κ₅₀ (λmax over the median eigenvalue) of the input covariance S_x or the gradient covariance S_d is
    above 10⁴, measured with at least four rows per direction. With fewer rows, the small eigenvalues depend on the
    sample.

    **Caveats.** After a ReLU, the mean alone creates one large eigenvalue. Adaptive optimizers compensate for part of
    it.

    **What to try.** Add normalization before the layer (inputs) or after it (gradients), or whiten the inputs.
    """
    limit = settings.limits.ill_conditioned
    reasons = []
    worst = 0.0
    for role, suffix, what in (("input", "x", "inputs"), ("gradient", "d", "output gradients")):
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
    mean = f"; {float(energy):.0%} of the largest eigenvalue is the inputs' mean" if energy is not None else ""
    message = (
        f"{' and '.join(reasons)} (limit: {limit:g}){mean}. Half of the directions are hardly learned by gradient "
        "descent. Add normalization before the layer (inputs) or after it (gradients)."
    )
    return Verdict(message, worst, limit)
