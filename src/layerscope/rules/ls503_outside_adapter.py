"""Rule LS503: tensors changed that the adapter does not adapt."""

from __future__ import annotations

from collections.abc import Iterator

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.model_changes import Changes
from layerscope.settings import Settings
from layerscope.text import plural

MAX_NAMED = 3


@rule("LS503", "update outside the adapter", severity="warn", needs=(), over="diff", ref="PEFT: target_modules")
def outside_adapter(changes: Changes, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """Tensors changed that the given adapter does not adapt.

    **What it means.** The model is not only the base with this adapter: other tensors were trained, converted or taken
    from another model.

    **Evidence.** Tensors whose change exceeds rounding and for which the adapter has no factors.

    **Caveats.** Modules that PEFT saves in full (``modules_to_save``) are in the adapter's folder and count as adapted
    only if they have factors.

    **What to try.** Look at these tensors in the list; compare with another base model if there are many.
    """
    adapted = [row for row in changes.compared if changes.number(row, "merge_scale") is not None]
    outside = [row.name for row in changes.changed if changes.number(row, "merge_scale") is None]
    if not adapted or not outside:
        return
    named = ", ".join(outside[:MAX_NAMED]) + (", …" if len(outside) > MAX_NAMED else "")
    yield (
        None,
        Verdict(
            f"{plural(len(outside), 'tensor')} changed without being adapted: {named}. The model is not only the base "
            f"with "
            "this adapter. Look at these tensors, or compare with another base.",
            float(len(outside)),
            0.0,
        ),
    )
