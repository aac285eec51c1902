"""Rule LS501: an adapter changes nothing in a module, because one of its factors is zero."""

from __future__ import annotations

from collections.abc import Iterator

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.model_changes import Changes
from layerscope.settings import Settings


@rule("LS501", "dead adapter", severity="warn", needs=(), over="diff", ref="Hu et al., ICLR 2022 (LoRA: B starts at 0)")
def dead_adapter(changes: Changes, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """The update s·B·A of an adapter is exactly zero in a module.

    **What it means.** The module was not trained: B still has its initial value 0, or the file was saved before the
    first step. The adapter does not change the model there.

    **Evidence.** The singular values of s·B·A, which are all zero.

    **Caveats.** None: the product is zero for every input.

    **What to try.** Check that the module has gradients and that the optimizer holds its factors; load the last
    checkpoint of the training.
    """
    dead = [row for row in changes.unchanged if changes.number(row, "adapter_rank")]
    for row in dead:
        yield (
            row.name,
            Verdict(
                f"s·B·A of rank {changes.number(row, 'adapter_rank'):.0f} is exactly zero. The module was not "
                f"trained. Check "
                "that its factors have gradients, and which checkpoint was saved.",
                0.0,
                0.0,
            ),
        )
