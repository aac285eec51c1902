"""Rule LS103: the layer looks as before training: like its own shuffled entries, or with equal singular values."""

from __future__ import annotations

from layerscope.fits.power_law import EQUAL_EIGENVALUES
from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.untrained_layers import COMPARED, has_equal_singular_values, looks_untrained
from layerscope.settings import Settings


@rule(
    "LS103",
    "looks untrained",
    severity="info",
    needs=("num_evals", "lambda_max"),
    ref="Martin & Mahoney, JMLR 22(165) (random-like phase); Martin, Peng & Mahoney, arXiv 2106.00734 (rand_distance); "
    "Saxe, McClelland & Ganguli, ICLR 2014 (orthogonal initialization)",
)
def found_untrained(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The layer looks as it did before training: its spectrum shows nothing learned.

    **What it means.** Either shuffling the entries of the matrix leaves its spectrum unchanged, as for an
    initialization with independent entries, and the norms of the units differ only as by chance. Or all singular values
    are equal, as for an orthogonal or an identity initialization. A layer that was never trained or never loaded looks
    like this: for example, the pooler of many sentence encoders, which their training never uses.

    **Evidence.** The Marchenko–Pastur law fits the spectrum and no eigenvalue lies beyond its edge (phase random-like).
    With --randomize, rand_distance decides instead: it is at most 1.5 times the distance between two shuffles, with no
    more spikes than the shuffles. In both cases, the variance of the units' squared norms (norm_spread) must be within
    3.5 standard errors of that of independent entries. For equal singular values, λmax is compared with λmin. The layer
    must have at least 50 eigenvalues (min_evals). The rule fires on at least 95 % of layers with independent entries,
    and fired on 2 of 600 layers of sound public models, among them a pooler that was never trained. After short
    trainings it is common: 23 of 128 small networks that learned their task well have such a layer. So it is
    information.

    **Caveats.** A layer may have moved a little from its initial weights and still look random. Entries with heavy
    tails of exponent 3 or more also look random. An α above 6 of such a layer reflects its shape. A few single weights
    can be outliers in a layer that looks random otherwise: then LS104 is given too, because its shuffles have the same
    outliers.

    **What to try.** Check that the intended checkpoint was loaded, and completely. Compare with the initial weights
    (--base).
    """
    if not looks_untrained(layer, settings):
        return None
    if has_equal_singular_values(layer):
        message = (
            f"All singular values are equal (λmax is at most {EQUAL_EIGENVALUES:g} times λmin), as in an orthogonal or "
            "an identity initialization: the layer is untrained. Check which checkpoint was loaded."
        )
        return Verdict(message, layer.metrics["lambda_max"], EQUAL_EIGENVALUES)
    if not all(name in layer.metrics for name in COMPARED):
        spread = float(layer.metrics.get("norm_spread", 1.0))
        message = (
            "The spectrum is that of a random matrix, and the norms of its units differ only as by chance "
            f"(norm_spread {spread:.2f}): the layer is untrained or has learned little. Check which "
            "checkpoint was loaded, and whether completely."
        )
        return Verdict(message, spread, 1.0)
    distance, null = float(layer.metrics["rand_distance"]), float(layer.metrics["rand_null"])
    limit = settings.limits.random_distance * null
    message = (
        f"rand_distance is {distance:.4f} (between shuffles: {null:.4f}, limit: {limit:.4f}), with no more "
        "spikes than the shuffles. The spectrum looks random: the layer is untrained or has learned little. "
        "Check which checkpoint was loaded, or compare with the initial weights (--base)."
    )
    return Verdict(message, distance, limit)
