"""Some models have a loss barrier between them: they should not be averaged."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Pairs


@rule(
    "LS302",
    "different basins",
    severity="warn",
    needs=(),
    over="landscape",
    ref="Frankle et al., ICML 2020; Draxler et al., ICML 2018",
)
def different_basins(pairs: Pairs) -> Verdict | None:
    """Models between which the loss rises: they are on different mountains, and their mean is not one of them.

    **What it means.** Somewhere on the straight line the loss is above its chord. Averaging such models, as soups,
    federated rounds and model crossover do, gives something worse than either.

    **Evidence.** How many pairs have a barrier above the tolerance, and the highest of them.

    **Caveats.** A barrier of the straight line only: a curve may go around it, and another order of the units may
    remove it (LS303). With interpolated batch-norm statistics most of it may be these (LS304).

    **What to try.** Align the units first (``layerscope.align``), start from a shared warm-up, or keep them apart and
    average predictions.
    """
    apart = [pair for pair in pairs.apart if math.isfinite(pair.barriers[pairs.first])]
    if not apart:
        return None
    worst = max(apart, key=lambda pair: pair.barriers[pairs.first])
    height = worst.barriers[pairs.first]
    a, b = worst.names
    message = f"{len(apart)} of {len(pairs.all_pairs)} pairs have a barrier; the highest, {a} to {b}, is {height:.3g}"
    return Verdict(f"{message}: do not average them as they are", height, pairs.tolerance)
