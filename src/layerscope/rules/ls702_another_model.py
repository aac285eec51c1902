"""Rule LS702: the quantized model is not that of the original."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from layerscope.records.findings import Verdict
from layerscope.records.quantization import QuantizationAudit
from layerscope.rules import rule
from layerscope.settings import Settings

MIN_COSINE = 0.6  # median over tensors; quantization to 2 bits leaves 0.88 or more, independent weights have 0
MIN_TENSORS = 2


@rule(
    "LS702", "quantized from another model", severity="error", needs=(), over="quantization", ref="layerscope quantize"
)
def another_model(quantization: QuantizationAudit, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """The decoded weights point in other directions than those of the original.

    **What it means.** The file was quantized from another model, another version of it, or with rows in another order.

    **Evidence.** The median cosine between decoded and original tensors.

    **Caveats.** One bit per weight and less can have such cosines too.

    **What to try.** Pass the model that the file was quantized from; ``layerscope diff`` shows which tensors agree.
    """
    cosines = [t.numbers["cosine"] for t in quantization.compared if "cosine" in t.numbers]
    if len(cosines) >= MIN_TENSORS and median(cosines) < MIN_COSINE:
        value = median(cosines)
        yield (
            None,
            Verdict(
                f"The median cosine of decoded and original tensors is {value:.2f}. Pass the model that the file was "
                f"quantized from.",
                value,
                MIN_COSINE,
            ),
        )
