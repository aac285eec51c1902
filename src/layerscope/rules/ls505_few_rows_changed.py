"""Rule LS505: a few rows of an embedding changed."""

from __future__ import annotations

from collections.abc import Iterator

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.model_changes import Changes
from layerscope.settings import Settings

MAX_SHARE = 0.05  # of the rows


@rule("LS505", "few embedding rows changed", severity="info", needs=(), over="diff", ref="layerscope diff")
def few_rows_changed(changes: Changes, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """At most 5 % of the rows of an embedding changed.

    **What it means.** Tokens were added or trained alone, or a conversion touched some of them.

    **Evidence.** The number of rows of the embedding that differ.

    **Caveats.** On purpose this is right: trained tokens, a new padding token.

    **What to try.** Check that these are the tokens that should have changed.
    """
    for row in changes.changed:
        count = changes.number(row, "rows_changed")
        if row.ref.kind == "embedding" and count and count <= MAX_SHARE * row.ref.shape[0]:
            yield (
                row.name,
                Verdict(
                    f"{count:.0f} of {row.ref.shape[0]} rows changed. Check that these are the tokens that should "
                    f"have.",
                    count,
                    MAX_SHARE * row.ref.shape[0],
                ),
            )
