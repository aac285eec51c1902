"""Rule LS104: a few outlier weights cause large eigenvalues, even after the entries are shuffled."""

from __future__ import annotations

from layerscope.metrics.random_matrix import is_grave_trap
from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.rules.outlier_structure import structure_of_outliers
from layerscope.settings import Settings


@rule(
    "LS104",
    "outlier weights",
    severity="info",
    needs=("rand_num_spikes", "max_traps"),
    ref="Martin et al., arXiv 2506.04434 (anti-grokking); Martin & Mahoney, JMLR 22(165), §6; Ma, Bernoulli 18 (2012)",
)
def outlier_weights(layer: LayerReport, settings: Settings) -> Verdict | None:
    """A few outlier weights cause large eigenvalues, even after the entries are shuffled (a correlation trap).

    **What it means.** Shuffling the entries of a matrix removes every correlation. An eigenvalue that still lies beyond
    the edge of the random bulk is caused by the size of single weights; Martin and Mahoney call it a correlation trap.
    Traps appear when a layer is trained with too high a learning rate or too small a batch, or long after it has
    stopped learning. In grokking experiments, test accuracy falls as they appear.

    **Evidence.** The number of eigenvalues of each shuffle beyond the Tracy–Widom edge of its own matrix, after
    subtracting the mean. Independent entries of similar size show one in at most 1 % of shuffles. The rule fires if
    more than half of the shuffles have a trap that lies at least 10 % beyond the edge, with more than 10 % of it
    carried by a single weight. The message names the weights. Measured with --randomize only.

    Outliers that lie on the diagonal, or in one row or column, are reported by LS112 instead: they are structure.

    **Caveats.** Outlier weights are common and harmless: about every second file of healthy public models has some, in
    embeddings, convolutions, recurrent layers, and in language models, where a few channels carry large activations on
    purpose. A weight that stands alone in the whole model is reported by LS115. Heavy-tailed entries produce traps by
    chance. So do sparse layers, whose remaining weights are large compared with the zeros.

    **What to try.** Inspect the named weights and compare them with an earlier checkpoint. Try a lower learning rate or
    gradient clipping. Or remove the traps with layerscope.edit.sharpen, and measure test accuracy before and after.
    """
    if structure_of_outliers(layer, settings):
        return None
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
    message += ": a correlation trap. Single weights are far larger than the others. Compare "
    message += f"{m['trap_entries']} with" if "trap_entries" in m else "the largest weights with"
    message += " an earlier checkpoint: traps that appear in training are a fault."
    return Verdict(message, m["rand_num_spikes"], 0)
