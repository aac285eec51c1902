"""A few outlier weights cause large eigenvalues, even after the entries are shuffled."""

from __future__ import annotations

from layerscope.metrics.random_matrix import is_grave_trap
from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS104",
    "correlation trap",
    severity="warn",
    needs=("rand_num_spikes", "max_traps"),
    ref="Martin et al., arXiv 2506.04434 (anti-grokking); Martin & Mahoney, JMLR 22(165), §6; Ma, Bernoulli 18 (2012)",
)
def correlation_trap(layer: LayerReport, settings: Settings) -> Verdict | None:
    """A few weights are so large that the spectrum has outliers even after its entries are shuffled.

    **What it means.** In a shuffle every correlation is gone; an eigenvalue beyond the edge of its bulk is there
    because of the size of single weights. Such traps appear when a layer is trained with too large a learning rate or
    too small a batch, or long after it has learned what it can; in grokking experiments test accuracy falls with them.

    **Evidence.** The outliers of each shuffle beyond the Tracy–Widom edge of their own matrix, its mean taken out (a
    layer of independent entries of one size shows one in at most 1 % of shuffles), in more than half of the shuffles;
    how far the largest lies beyond the edge, and which weights carry them. At least one trap must lie a tenth
    beyond the edge and have more than a tenth of it carried by a single weight. Only measured with --randomize.

    **Caveats.** Outlying weights are common and harmless in embeddings, in the layers next to a norm, and in language
    models, where a few channels carry large activations on purpose. Entries with a heavy-tailed distribution show
    traps by chance, and so do sparse layers, where what is left is large beside the zeros. One trap is a place to
    look, not a defect.

    **What to try.** Look at the weights named; compare with an earlier checkpoint; a smaller learning rate, gradient
    clipping, or layerscope.edit.sharpen, and test accuracy before and after.
    """
    shuffles = [part for role, part in layer.parts.items() if role.startswith("shuffle")]
    size = settings.limits.trap_size
    counts = [sum(is_grave_trap(mode, size) for mode in part.modes) for part in shuffles]
    if 2 * sum(count > 0 for count in counts) <= len(counts):
        return None
    m = layer.metrics
    mean, largest = float(m["rand_num_spikes"]), int(m["max_traps"])
    message = f"{mean:.3g} trap{'' if mean == 1 else 's'} per shuffle" + (f" (at most {largest})" * (largest != mean))
    if "trap_size" in m:
        message += f", the largest at {1 + float(m['trap_size']):.3g} times the edge of its bulk"
    if "trap_entries" in m:
        message += f"; weights {m['trap_entries']}"
    return Verdict(message, m["rand_num_spikes"], 0)
