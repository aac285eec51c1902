"""Models share an ancestor, or are unrelated."""

from __future__ import annotations

import math
from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Apart

MIN_RELATED_SHARE = 0.8  # share of the weights that are alike, from which models are related
MAX_UNRELATED_SHARE = 0.2  # up to which they are not


@rule(
    "LS307",
    "of one origin, or of none",
    severity="info",
    needs=(),
    over="landscape",
    ref="Ilharco et al., ICLR 2023; Fort et al., 2019",
)
def ancestors(apart: Sequence[Apart]) -> Verdict | None:
    """Do models have a common ancestor? Independent weights are orthogonal but for chance.

    **What it means.** Weights of independent runs have cosines of 1/√P or so, whatever was learned. Where most tensors
    are more alike, one model was trained from the other, or both from a third: their difference is a task vector, and
    averaging them may work.

    **Evidence.** The share of the weights (two axes or more, 400 entries or more) whose cosine is above 3/√P; the
    symmetric distance.

    **Caveats.** Long training with decay forgets an ancestor. A permuted copy looks unrelated: align first.

    """
    measured = [pair for pair in apart if math.isfinite(pair.alike)]
    if not measured:
        return None
    related = [pair for pair in measured if pair.alike >= MIN_RELATED_SHARE]
    unrelated = [pair for pair in measured if pair.alike <= MAX_UNRELATED_SHARE]
    phrases = [
        f"{len(related)} share an ancestor" if related else "",
        f"{len(unrelated)} are unrelated" if unrelated else "",
    ]
    if not any(phrases):
        return None
    message = f"of {len(apart)} pairs {' and '.join(filter(None, phrases))}"
    return Verdict(message, float(len(related)), MIN_RELATED_SHARE)
