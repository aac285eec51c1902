"""Which of the six phases of training a layer's spectrum shows."""

from __future__ import annotations

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.metrics.references import HTSR
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit

COLLAPSED_SHARE = 0.25  # share of zero eigenvalues
MAX_BULK_KS = 0.1  # distance of the bulk to the Marchenko–Pastur law; Gaussian layers of 64 rows stay below 0.07
MAX_SPIKE_SHARE = 0.15  # share of spikes above which there is no bulk to speak of
MIN_SEPARATION = 1.5  # λmax over the bulk edge: an eigenvalue that stands apart, not one that bleeds out
MAX_HEAVY_ALPHA = 6.0  # α of the weakest tail still called heavy


@metric(unit="", ref=f"{HTSR} (the 5+1 phases)", fmt="s", over_layers="")
def phase(weight: Spectrum, marchenko_pastur: Fit | None = None, power_law: Fit | None = None) -> str:
    """The phase of training, read off the spectrum by rules in this order.

    rank-collapse: a quarter of the eigenvalues are zero. While the bulk stays within 0.1 (KS) of the
    Marchenko–Pastur law and at most 15 % of the eigenvalues are spikes: random-like without a spike beyond the
    Tracy–Widom edge, bleeding-out when λmax is within 1.5 times the edge, bulk+spikes beyond. Otherwise the bulk is
    deformed: heavy-tailed when a power law with α ≤ 6 was fitted, else bulk-decay. The borders are conventions; the
    paper draws them by eye. Small layers whose entries have heavy tails of exponent 3 or more still look random.
    """
    if not weight.complete:
        raise Absent("a low-rank product or an inverse has no phase")
    if len(weight.live) <= (1 - COLLAPSED_SHARE) * len(weight.evals):
        return "rank-collapse"
    if marchenko_pastur is None:
        raise Absent("no bulk was fitted")
    bulk = marchenko_pastur.params
    if bulk["ks"] <= MAX_BULK_KS and bulk["spikes"] <= MAX_SPIKE_SHARE * len(weight.evals):
        if bulk["spikes"] == 0:
            return "random-like"
        return "bleeding-out" if weight.evals[-1] <= MIN_SEPARATION * bulk["edge"] else "bulk+spikes"
    if power_law is None:
        raise Absent("the bulk is deformed and no tail was fitted")
    return "heavy-tailed" if power_law.params["alpha"] <= MAX_HEAVY_ALPHA else "bulk-decay"
