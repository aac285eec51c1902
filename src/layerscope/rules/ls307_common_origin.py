"""LS307."""

from __future__ import annotations

import math
from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Apart

KIN = 0.8  # share of the weights that are alike, from which models are related
STRANGE = 0.2  # up to which they are not


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
    told = [pair for pair in apart if math.isfinite(pair.alike)]
    if not told:
        return None
    kin = [pair for pair in told if pair.alike >= KIN]
    strange = [pair for pair in told if pair.alike <= STRANGE]
    said = [f"{len(kin)} share an ancestor" if kin else "", f"{len(strange)} are unrelated" if strange else ""]
    if not any(said):
        return None
    return Verdict(f"of {len(apart)} pairs {' and '.join(filter(None, said))}", float(len(kin)), KIN)
