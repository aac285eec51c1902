"""Rule LS509: nothing changed between the two models."""

from __future__ import annotations

from collections.abc import Iterator

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.model_changes import Changes
from layerscope.settings import Settings
from layerscope.text import plural


@rule("LS509", "nothing changed", severity="warn", needs=(), over="diff", ref="layerscope diff")
def nothing_changed(changes: Changes, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """Every compared tensor is identical to the base, or equal to it up to rounding.

    **What it means.** The two are one model: training, merging or editing did not change it, or the same file was given
    twice. A copy in another number format is such a model too.

    **Evidence.** The number of tensors that are identical, and of those that differ by no more than rounding.

    **Caveats.** Rounding hides changes that are smaller than it.

    **What to try.** For a copy in another format, this is right. Otherwise, check which file was saved.
    """
    adapted = any(changes.number(row, "adapter_rank") for row in changes.compared)
    if changes.changed or not changes.compared or adapted:
        return
    rounded = sum((changes.number(row, "relative_change") or 0) > 0 for row in changes.unchanged)
    same = len(changes.unchanged) - rounded
    yield (
        None,
        Verdict(
            f"{plural(same, 'tensor')} identical, {rounded} equal up to rounding: the two are one model. If it should "
            f"have "
            "changed, check which file was saved.",
            float(len(changes.unchanged)),
            0.0,
        ),
    )
