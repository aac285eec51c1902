"""Rule LS307: some models share an ancestor, or are unrelated."""

from __future__ import annotations

import math
from collections.abc import Sequence

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.landscape_facts import Apart

MIN_RELATED_SHARE = 0.8  # share of similar weights from which two models count as related
MAX_UNRELATED_SHARE = 0.2  # share up to which they count as unrelated


@rule(
    "LS307",
    "common or separate origin",
    severity="info",
    needs=(),
    over="landscape",
    ref="Ilharco et al., ICLR 2023; Fort et al., 2019",
)
def ancestors(apart: Sequence[Apart]) -> Verdict | None:
    """The models have a common ancestor, or they are unrelated: independent weights are orthogonal up to chance.

    **What it means.** Weights of independent runs have cosines of about 1/√P, whatever the runs learned. If most
    tensors are more similar, one model was trained from the other, or both were trained from a third. Their difference
    is then a task vector, and averaging them may work.

    **Evidence.** The share of the weights (two or more axes, at least 400 entries) whose cosine is above 3/√P, and the
    symmetric distance.

    **Caveats.** Long training with weight decay hides a common ancestor. A permuted copy looks unrelated, so align the
    models first.

    **What to try.** Measure the loss barrier between related models before you average them. Align unrelated ones
    first.
    """
    measured = [pair for pair in apart if math.isfinite(pair.alike)]
    if not measured:
        return None
    related = [pair for pair in measured if pair.alike >= MIN_RELATED_SHARE]
    unrelated = [pair for pair in measured if pair.alike <= MAX_UNRELATED_SHARE]
    phrases = [
        f"{len(related)} share an ancestor (at least {MIN_RELATED_SHARE:.0%} of the weights are similar)",
        f"{len(unrelated)} are unrelated (at most {MAX_UNRELATED_SHARE:.0%} are similar)",
    ]
    phrases = [phrase for phrase, found in zip(phrases, (related, unrelated), strict=True) if found]
    if not phrases:
        return None
    advice = (
        "Averaging related models may work; measure the loss barrier first."
        if related
        else "Averaging unrelated models usually fails; align their hidden units first."
    )
    message = f"Of {len(apart)} pairs, {' and '.join(phrases)}. {advice}"
    return Verdict(message, float(len(related)), MIN_RELATED_SHARE)
