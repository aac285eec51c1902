"""Rule LS701: a few tensors cost most of the quality."""

from __future__ import annotations

from collections.abc import Iterator

from layerscope.records.findings import Verdict
from layerscope.records.quantization import QuantizationAudit
from layerscope.rules import rule
from layerscope.settings import Settings
from layerscope.text import plural

MAX_TENSORS, MIN_TENSORS = 5, 8  # how many tensors are few; fewest tensors of a model in which a few stand out
MIN_SHARE = 0.5  # of the predicted damage
MIN_TIMES = 2.0  # their share of the damage, relative to their share of the weights


@rule(
    "LS701", "a few tensors cost most of the quality", severity="info", needs=(), over="quantization",
    ref="Martens, JMLR 21 (2020); layerscope quantize",
)  # fmt: skip
def few_tensors_cost_most(
    quantization: QuantizationAudit, settings: Settings
) -> Iterator[tuple[str | None, Verdict]]:  # fmt: skip
    """At most five tensors have half of the predicted damage.

    **What it means.** Keeping these in a format with more bits removes that share of the damage at little size.

    **Evidence.** Damage predicted from the Fisher information of the outputs. On three models at 2 to 4 bits, its rank
    correlation with the measured damage is .97 to .99 with 40 examples, and .81 to .96 with 16 (docs, "Which tensors
    cost quality?").

    **Caveats.** The prediction holds for small changes; at 2 bits and below measure it (--measure 5).

    **What to try.** ``layerscope quantize plan MODEL --bits N`` gives these tensors more bits and others fewer.
    """
    ranked = quantization.by_damage()
    total = sum(tensor.damage or 0.0 for tensor in ranked)
    if len(ranked) < MIN_TENSORS or total <= 0:
        return
    share, few = 0.0, []
    for tensor in ranked[:MAX_TENSORS]:
        share += (tensor.damage or 0.0) / total
        few.append(tensor)
        if share >= MIN_SHARE:
            break
    else:
        return
    size = sum(tensor.entries for tensor in few) / sum(tensor.entries for tensor in ranked)
    if share < MIN_TIMES * size:
        return
    yield (
        few[0].name,
        Verdict(
            f"{plural(len(few), 'tensor')} with {100 * size:.1f} % of the weights have {100 * share:.0f} % of the "
            f"predicted damage: {', '.join(tensor.name[:120] for tensor in few)}. Keep them in a format with more "
            f"bits.",
            share,
            MIN_SHARE,
        ),
    )
