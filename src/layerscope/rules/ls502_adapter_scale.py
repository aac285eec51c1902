"""Rule LS502: an adapter is in the model at another scale than it should be, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.model_changes import Changes
from layerscope.settings import Settings

MAX_DEVIATION = 0.05  # from scale 1 that rounding and a few trained steps explain


@rule("LS502", "adapter merged at another scale", severity="error", needs=(), over="diff", ref="PEFT: lora_alpha / r")
def adapter_scale(changes: Changes, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """The adapter's update is in the model at a scale other than 1: not merged (0), merged twice (2), a wrong factor.

    **What it means.** The model does not behave as the base with its adapter.

    **Evidence.** c = ⟨W − W₀, s·B·A⟩/‖s·B·A‖² of every adapted tensor; the median over the tensors.

    **Caveats.** A model that was trained on after merging, or merged with others, has another c too.

    **What to try.** Merge again from the base model, with the lora_alpha and r of adapter_config.json.
    """
    scales = [scale for row in changes.compared if (scale := changes.number(row, "merge_scale")) is not None]
    if not scales:
        return
    scale = median(scales)
    if abs(scale - 1) <= MAX_DEVIATION:
        return
    what = "is not merged" if abs(scale) <= MAX_DEVIATION else f"is merged at {scale:.2f} times its scale"
    yield (
        None,
        Verdict(
            f"The adapter {what} (median over {len(scales)} tensors). The model is not the base with this adapter. "
            f"Merge it "
            "again from the base model.",
            scale,
            1.0,
        ),
    )
