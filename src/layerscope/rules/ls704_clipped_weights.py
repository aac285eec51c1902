"""Rule LS704: quantization clipped large weights."""

from __future__ import annotations

from collections.abc import Iterator

from layerscope.records.findings import Verdict
from layerscope.records.quantization import QuantizationAudit
from layerscope.rules import rule
from layerscope.settings import Settings

MAX_SHARE = 1e-3  # of the entries


@rule("LS704", "clipped weights", severity="warn", needs=(), over="quantization", ref="layerscope quantize")
def clipped_weights(quantization: QuantizationAudit, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """More than one weight in a thousand lies far beyond the range of its quantized block.

    **What it means.** The scale of these blocks is too small: their largest weights were cut off.

    **Evidence.** The share of entries whose magnitude exceeds the largest of their 32 decoded neighbors by a quarter.

    **Caveats.** Formats that search for the best scale cut a few on purpose; formats below 3 bits are left out.

    **What to try.** Quantize with a scale that covers the range, or in smaller groups.
    """
    for tensor in quantization.compared:
        share = tensor.numbers.get("clipped", 0.0)
        if share > MAX_SHARE and tensor.bits >= 3:
            yield (
                tensor.name,
                Verdict(
                    f"{100 * share:.1g} % of the weights are cut off. Quantize this tensor with a scale that covers "
                    f"its range.",
                    share,
                    MAX_SHARE,
                ),
            )
