"""Rule LS507: an adapter uses only a part of its rank."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.model_changes import Changes
from layerscope.settings import Settings


@rule("LS507", "unused adapter rank", severity="info", needs=(), over="diff", ref="layerscope diff")
def unused_rank(changes: Changes, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """Half of the rank of an adapter holds at least 95 % of its update in half of its modules.

    **What it means.** A smaller r would hold nearly the same update.

    **Evidence.** The number of singular values of s·B·A that hold 95 % of ‖s·B·A‖_F², against r.

    **Caveats.** Training with a smaller r is not the same as cutting a larger one. Small directions can matter.

    **What to try.** ``--emit peft`` proposes r and rank_pattern by module; evaluate them on held-out data.
    """
    used = [
        (rank, changes.number(row, "rank_95") or 0.0)
        for row in changes.changed
        if (rank := changes.number(row, "adapter_rank"))
    ]
    if not used:
        return
    share = median(needed / rank for rank, needed in used)
    if share <= 0.5:
        rank, needed = median(r for r, _ in used), median(n for _, n in used)
        yield (
            None,
            Verdict(
                f"{needed:.0f} of {rank:.0f} directions hold 95 % of the update (median of {len(used)} modules). A "
                f"smaller r "
                "would hold nearly the same update. --emit peft proposes one; evaluate it on held-out data.",
                share,
                0.5,
            ),
        )
