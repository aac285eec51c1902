"""Rule LS510: the model has hardly anything in common with its base."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.model_changes import MAX_COSINE, Changes
from layerscope.settings import Settings


@rule("LS510", "another model", severity="warn", needs=(), over="diff", ref="layerscope diff")
def another_model(changes: Changes, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """The weights point in other directions than those of the base: the median cosine of W and W₀ is below 0.5.

    **What it means.** The model was not fine-tuned from this base, its units are in another order, or it was trained so
    long that little of the base is left. Ranks and intruder dimensions of such an update say nothing.

    **Evidence.** The cosine of W and W₀ as vectors, median over the weight matrices that changed.

    **Caveats.** Early checkpoints of one training differ that much too.

    **What to try.** Check the base. layerscope distances and landscape basins compare models of any origin.
    """
    if not changes.is_another_model:
        return
    cosine = median(changes.cosines)
    message = (
        f"The median cosine of W and W₀ over {len(changes.cosines)} matrices is {cosine:.2f} (fine-tuned models: above "
        "0.9, independent ones: 0). The model does not come from this base, or little of it is left. Check the base."
    )
    yield None, Verdict(message, cosine, MAX_COSINE)
