"""Rule LS103: the spectrum of the layer does not differ from that of its shuffled entries."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS103",
    "nearly random",
    severity="info",
    needs=("rand_distance", "rand_null", "num_spikes"),
    ref="Martin & Mahoney, JMLR 22(165) (random-like phase); Martin, Peng & Mahoney, arXiv 2106.00734 (rand_distance)",
)
def nearly_random(layer: LayerReport, settings: Settings) -> Verdict | None:
    """The spectrum of the layer does not differ from that of its shuffled entries: it shows nothing learned.

    **What it means.** Shuffling the entries of the matrix leaves its spectrum unchanged. The distance to the shuffles
    is at most 1.5 times the distance between two shuffles, and no more eigenvalues lie beyond the Marchenko–Pastur edge
    than in the shuffles. A freshly initialized layer looks like this, and so does a layer that training has hardly
    changed.

    **Evidence.** rand_distance compared with rand_null, and the number of spikes compared with that of the shuffles.
    Measured with --randomize only. The rule fires on at least 95 % of matrices with independent entries (eight shapes
    from 16×10 to 400×400).

    **Caveats.** A spectrum does not show everything: a layer may have moved far from its initial weights and still look
    random. Entries with heavy tails of exponent 3 or more also look random. A small layer is recognized as trained only
    if it is far from random. An α above 6 of such a layer reflects its shape, not its training.

    **What to try.** Check that the intended checkpoint was loaded, and compare with the initial weights (--base).
    """
    m = layer.metrics
    distance, null = float(m["rand_distance"]), float(m["rand_null"])
    limit = settings.limits.random_distance * null
    fits = [part.fits["marchenko_pastur"] for role, part in layer.parts.items() if role.startswith("shuffle")]
    shuffle_spikes = max((int(fit.params["spikes"]) for fit in fits if fit.ok), default=0)
    if distance <= limit and int(m["num_spikes"]) <= shuffle_spikes:
        message = (
            f"rand_distance is {distance:.4f} (between shuffles: {null:.4f}, limit: {limit:.4f}), with no more "
            "spikes than the shuffles. The spectrum looks random: the layer is untrained or has learned little. "
            "Check which checkpoint was loaded, or compare with the initial weights (--base)."
        )
        return Verdict(message, distance, limit)
    return None
