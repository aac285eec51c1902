"""Rule LS602: a layer lost its weights or its rank compared with the first model of a comparison."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

FALL = 0.5  # stable rank relative to before, below which it fell
COLLAPSED = "rank-collapse"


@rule(
    "LS602",
    "newly collapsed",
    severity="error",
    needs=("stable_rank",),
    over="comparison",
    ref="Rudelson & Vershynin, J. ACM 54 (2007) (stable rank)",
)
def newly_collapsed(before: LayerReport, after: LayerReport, settings: Settings) -> Verdict | None:
    """A layer is collapsed that was not: its rank is lost, or one direction holds nearly all of it.

    **What it means.** The training, the merge or the conversion between the two models damaged the layer.

    **Evidence.** The phase of the spectrum and the stable rank ‖W‖_F²/λmax in both models.

    **Caveats.** Pruning whole units lowers the rank on purpose.

    **What to try.** Restore the layer from the first model, and look for the step that changed it.
    """
    was, now = before.metrics, after.metrics
    old, new, limit = float(was["stable_rank"]), float(now["stable_rank"]), settings.limits.stable_rank
    phase = now.get("phase") == COLLAPSED and was.get("phase") not in (COLLAPSED, None)
    narrowed = new < limit <= old and new < FALL * old
    if not (phase or narrowed):
        return None
    what = "Its rank is lost" if phase else "One direction holds nearly all of it"
    return Verdict(
        f"{what}: the stable rank is {new:.3g} and was {old:.3g}. Restore the layer, and look for the step that "
        f"changed "
        "it.",
        new,
        limit,
    )
