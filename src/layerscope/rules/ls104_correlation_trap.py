"""Rule LS104: a few outlier weights cause large eigenvalues, even after the entries are shuffled."""

from __future__ import annotations

from layerscope.metrics.random_matrix import is_grave_trap
from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS104",
    "outlier weights",
    severity="warn",
    needs=("rand_num_spikes", "max_traps"),
    ref="Martin et al., arXiv 2506.04434 (anti-grokking); Martin & Mahoney, JMLR 22(165), §6; Ma, Bernoulli 18 (2012)",
)
def correlation_trap(layer: LayerReport, settings: Settings) -> Verdict | None:
    """A few outlier weights cause large eigenvalues, even after the entries are shuffled (a correlation trap).

    **What it means.** Shuffling the entries of a matrix removes every correlation. An eigenvalue that still lies beyond
    the edge of the random bulk is caused by the size of single weights; Martin and Mahoney call it a correlation trap.
    Traps appear when a layer is trained with too high a learning rate or too small a batch, or long after it has
    stopped learning. In grokking experiments, test accuracy falls as they appear.

    **Evidence.** The number of eigenvalues of each shuffle beyond the Tracy–Widom edge of its own matrix, after
    subtracting the mean. Independent entries of similar size show one in at most 1 % of shuffles. The rule fires if
    more than half of the shuffles have a trap that lies at least 10 % beyond the edge, with more than 10 % of it
    carried by a single weight. The message names the weights. Measured with --randomize only.

    **Caveats.** Outlier weights are common and harmless in embeddings, next to normalization layers, and in language
    models, where a few channels carry large activations on purpose. Heavy-tailed entries produce traps by chance. So do
    sparse layers, whose remaining weights are large compared with the zeros. A single trap is a reason to look at the
    layer, not a defect.

    **What to try.** Inspect the named weights and compare them with an earlier checkpoint. Try a lower learning rate or
    gradient clipping. Or remove the traps with layerscope.edit.sharpen, and measure test accuracy before and after.
    """
    shuffles = [part for role, part in layer.parts.items() if role.startswith("shuffle")]
    size = settings.limits.trap_size
    counts = [sum(is_grave_trap(mode, size) for mode in part.modes) for part in shuffles]
    if 2 * sum(count > 0 for count in counts) <= len(counts):
        return None
    m = layer.metrics
    mean, largest = float(m["rand_num_spikes"]), int(m["max_traps"])
    lies = "eigenvalue lies" if mean == 1 else "eigenvalues lie"
    message = f"Even after the weights are shuffled, {mean:.3g} {lies} beyond the edge of a random matrix"
    message += f" (at most {largest})" * (largest != mean)
    if "trap_size" in m:
        message += f", the largest at {1 + float(m['trap_size']):.3g} times the edge"
    message += ": a correlation trap. Single weights are far larger than the others, often after too high a learning "
    message += f"rate. Inspect {m['trap_entries']}." if "trap_entries" in m else "rate. Inspect the largest weights."
    return Verdict(message, m["rand_num_spikes"], 0)
