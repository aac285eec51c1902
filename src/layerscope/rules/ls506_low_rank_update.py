"""Rule LS506: the update has an exact low rank, as a merged LoRA has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.model_changes import Changes
from layerscope.settings import Settings
from layerscope.text import plural


@rule("LS506", "update of low rank", severity="info", needs=(), over="diff", ref="Hu et al., ICLR 2022 (LoRA)")
def low_rank_update(changes: Changes, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """The update W − W₀ has an exact low rank: nothing but rounding is left without its largest directions.

    **What it means.** A LoRA of that rank was merged into the base.

    **Evidence.** The number of singular values above the largest one that rounding noise gives, and a rest no larger
    than the noise.

    **Caveats.** Directions below the noise are not seen, so the rank of the adapter may be larger.

    **What to try.** To continue the training, use this rank. ``--emit peft`` writes it as a LoraConfig.
    """
    ranks = Counter(int(rank) for row in changes.changed if (rank := changes.number(row, "exact_rank")))
    if not ranks:
        return
    listed = ", ".join(f"rank {rank} in {plural(count, 'tensor')}" for rank, count in ranks.most_common(3))
    more = ", …" if len(ranks) > 3 else ""
    yield (
        None,
        Verdict(
            f"The update has {listed}{more}: a merged LoRA. To continue its training, use this rank.",
            float(ranks.most_common(1)[0][0]),
            0.0,
        ),
    )
