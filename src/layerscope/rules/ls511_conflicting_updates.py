"""Rule LS511: the updates of two models oppose each other."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.merge_facts import Merge
from layerscope.settings import Settings

OPPOSED = -0.1  # cosine of two task vectors below which they oppose each other (independent ones: near 0)


@rule(
    "LS511", "opposed updates", severity="warn", needs=(), over="merge", ref="Ilharco et al., ICLR 2023 (task vectors)"
)
def conflicting_updates(merge: Merge, settings: Settings) -> Verdict | None:
    """The task vectors of two models point in opposite directions: their cosine is below −0.1.

    **What it means.** Their mean undoes a part of both.

    **Evidence.** The cosine of W₁ − W₀ and W₂ − W₀ over all tensors. Independent fine-tunes have cosines near 0.

    **Caveats.** The cosine does not tell the loss of the mean.

    **What to try.** Evaluate the mean on data of both tasks before using it (--model and --data).
    """
    opposed = [(a, b, value) for a, b, value in merge.pairs() if value < OPPOSED]
    if not opposed:
        return None
    first, second, value = min(opposed, key=lambda pair: pair[2])
    return Verdict(
        f"The updates of {first} and {second} have a cosine of {value:.2f}: they oppose each other. Evaluate the mean "
        f"on "
        "data of both before using it.",
        value,
        OPPOSED,
    )
