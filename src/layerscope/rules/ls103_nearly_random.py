"""The layer's spectrum is no different from that of its shuffled entries."""

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
    """The layer's spectrum is that of its own shuffle: nothing learned shows in it.

    **What it means.** Shuffling the entries changes nothing: the distance to the shuffles is no more than 1.5 times
    that between two shuffles, and no eigenvalue stands beyond the Marchenko–Pastur edge that does not stand there in
    the shuffles too. A layer at its initialisation looks like this; so does one that learning has hardly touched.

    **Evidence.** rand_distance beside rand_null, the spikes beside those of the shuffles. Only measured with
    --randomize. Of layers of independent entries it fires on 95 % and more (eight shapes from 16×10 to 400×400).

    **Caveats.** A spectrum does not see everything: a layer may have moved far from where it began and still look
    random, and entries of exponent 3 or more are random in this sense. Small layers are told from random ones only when
    they are far from it. An α above 6 of such a layer is that of its shape, not of its training.
    """
    m = layer.metrics
    distance, null = float(m["rand_distance"]), float(m["rand_null"])
    limit = settings.limits.random_distance * null
    fits = [part.fits["marchenko_pastur"] for role, part in layer.parts.items() if role.startswith("shuffle")]
    shuffle_spikes = max((int(fit.params["spikes"]) for fit in fits if fit.ok), default=0)
    if distance <= limit and int(m["num_spikes"]) <= shuffle_spikes:
        message = (
            f"rand_distance {distance:.4f}, between its shuffles {null:.4f}; no spike beyond those of the shuffles"
        )
        return Verdict(message, distance, limit)
    return None
