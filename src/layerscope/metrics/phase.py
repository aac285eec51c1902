"""The phase of training that the spectrum of a layer shows."""

from __future__ import annotations

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.metrics.references import HTSR
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit

COLLAPSED_SHARE = 0.25  # share of zero eigenvalues
MAX_BULK_KS = 0.1  # largest KS distance to the Marchenko–Pastur law; Gaussian layers of 64 rows stay below 0.07
MAX_SPIKE_SHARE = 0.15  # share of spikes above which there is no separate bulk
MIN_SEPARATION = 1.5  # λmax over the bulk edge above which an eigenvalue is separate from the bulk
MAX_HEAVY_ALPHA = 6.0  # largest α of a tail that counts as heavy


@metric(unit="", ref=f"{HTSR} (the 5+1 phases)", fmt="s", over_layers="")
def phase(weight: Spectrum, marchenko_pastur: Fit | None = None, power_law: Fit | None = None) -> str:
    """The phase of training that the spectrum shows: six phases, from random-like to heavy-tailed and rank-collapse.

    The following rules are applied in order. The limits are conventions; the paper draws them by eye.

    - rank-collapse: at least a quarter of the eigenvalues are zero.
    - random-like: the bulk follows the Marchenko–Pastur law (KS distance up to 0.1, at most 15 % spikes), and no
      eigenvalue lies beyond the Tracy–Widom edge.
    - bleeding-out: the same bulk, with λmax up to 1.5 times the edge.
    - bulk+spikes: the same bulk, with λmax beyond 1.5 times the edge.
    - heavy-tailed: the bulk is deformed, and a power law with α ≤ 6 was fitted.
    - bulk-decay: the bulk is deformed, and α is above 6.

    Small layers whose entries have heavy tails of exponent 3 or more still look random.
    """
    if not weight.complete:
        raise Absent("a low-rank product or an inverse spectrum has no phase")
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
