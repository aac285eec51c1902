"""Rule LS508: the model has large singular vectors that its base does not have."""

from __future__ import annotations

from collections.abc import Iterator

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.model_changes import Changes
from layerscope.settings import Settings
from layerscope.text import plural

MAX_CHANCE = 0.5  # cosine by chance above which small matrices show intruders always or never


@rule(
    "LS508",
    "intruder dimensions",
    severity="info",
    needs=(),
    over="diff",
    ref="Shuttleworth et al., LoRA vs Full Fine-tuning: An Illusion of Equivalence, arXiv 2410.21228",
)
def intruder_dimensions(changes: Changes, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """Some of the largest singular vectors of the model are unlike all singular vectors of its base.

    **What it means.** New directions were added on top of the spectrum. In the paper, LoRA makes such directions,
    full fine-tuning hardly any, and models with many of them forget more.

    **Evidence.** The number of the 10 largest left singular vectors with a cosine below 0.5 with all of those of W₀,
    and the cosine that an independent vector of this size reaches.

    **Caveats.** One model shows the directions, not the forgetting: measure that on data of the base.

    **What to try.** Evaluate on what the base could do. A smaller learning rate, a larger r or fewer steps lower them.
    """
    hit = [
        row
        for row in changes.changed
        if (changes.number(row, "intruders") or 0) > 0 and (changes.number(row, "intruder_chance") or 1) < MAX_CHANCE
    ]
    if not hit or changes.is_another_model:
        return
    total = sum(int(changes.number(row, "intruders") or 0) for row in hit)
    yield (
        None,
        Verdict(
            f"{plural(total, 'intruder dimension')} in {plural(len(hit), 'tensor')}: large directions that the base "
            f"does not "
            "have. LoRA makes them, full fine-tuning hardly any. Evaluate on what the base could do.",
            float(total),
            0.0,
        ),
    )
