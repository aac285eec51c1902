"""Rule LS513: a model is too far from the base to be a fine-tune of it, or is the base itself."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.merge_facts import Merge
from layerscope.settings import Settings

FAR = 0.9  # ‖Δ‖/‖W₀‖ from which a model hardly shares the base: two independent models have √2


@rule("LS513", "not fine-tuned from this base", severity="error", needs=(), over="merge", ref="layerscope merge-check")
def not_one_base(merge: Merge, settings: Settings) -> Verdict | None:
    """A model is as far from the base as another training is, or does not differ from the base at all.

    **What it means.** Averages need models that share a base. Means of independent trainings do not work without
    aligning hidden units, and a model equal to its base adds nothing.

    **Evidence.** ‖W − W₀‖/‖W₀‖ over all tensors: about 1.4 for two independent models, below 0.3 after fine-tuning.

    **Caveats.** Long trainings from a base go far too.

    **What to try.** Check the base. layerscope landscape basins aligns and measures models of any origin.
    """
    check = merge.check
    far = {n: r for n, r in zip(check.names, check.whole.relative, strict=True) if r > FAR}
    if far:
        name = max(far, key=lambda key: far[key])
        return Verdict(
            f"{name} differs from the base by {far[name]:.2f} times the norm of the base, as independent models do. "
            "Check the base; layerscope landscape basins measures models of any origin.",
            far[name],
            FAR,
        )
    if merge.unchanged:
        return Verdict(
            f"{', '.join(merge.unchanged)} does not differ from the base. It adds nothing to a merge. Check the file.",
            0.0,
            0.0,
        )
    return None
