"""Rule LS601: α of a layer left the range that it had in the first model of a comparison."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.tail_evidence import accepted
from layerscope.settings import Settings


@rule(
    "LS601",
    "α left its range",
    severity="warn",
    needs=("alpha", "alpha_low", "alpha_high"),
    over="comparison",
    ref="the range of α: docs, How certain α is",
)
def alpha_left_range(before: LayerReport, after: LayerReport, settings: Settings) -> Verdict | None:
    """The ranges of α of a layer in two models do not overlap.

    **What it means.** The shape of the spectrum changed beyond what the choice of the tail and sampling explain.

    **Evidence.** α with its range in both models; both support a verdict.

    **Caveats.** A change is no fault by itself: α falls during most trainings.

    **What to try.** Look at the layer in both models (layerscope plot esd), and evaluate both.
    """
    if not (accepted(before, settings) and accepted(after, settings)):
        return None
    old, new = before.metrics, after.metrics
    if float(new["alpha_low"]) <= float(old["alpha_high"]) and float(old["alpha_low"]) <= float(new["alpha_high"]):
        return None
    low, high = float(old["alpha_low"]), float(old["alpha_high"])
    return Verdict(
        f"α is {new['alpha']:.2f} [{new['alpha_low']:.2f}, {new['alpha_high']:.2f}], and was {old['alpha']:.2f} "
        f"[{low:.2f}, {high:.2f}]: the ranges do not overlap. Look at the layer in both models.",
        new["alpha"],
        high if float(new["alpha"]) > high else low,
    )
