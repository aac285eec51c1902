"""Rule LS703: quantization destroyed a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from layerscope.records.findings import Verdict
from layerscope.records.quantization import QuantizationAudit
from layerscope.rules import rule
from layerscope.settings import Settings

MIN_SNR = 3.0  # dB; rounding a Gaussian to 2 bits in groups of 32 leaves 6.5
MIN_GAP = 6.0  # dB below the median of the tensors with as many bits


@rule(
    "LS703",
    "tensor destroyed by quantization",
    severity="error",
    needs=(),
    over="quantization",
    ref="layerscope quantize",
)
def destroyed_tensor(quantization: QuantizationAudit, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """The error of a tensor is as large as the tensor, or some of its decoded values are not finite.

    **What it means.** A scale overflowed, or was taken from the wrong tensor, or outliers stretched one scale.

    **Evidence.** Signal-to-noise ratio below 3 dB and 6 dB below the median of the tensors, or NaN.

    **Caveats.** Ternary and 1-bit formats have such ratios in all tensors, which this rule leaves out.

    **What to try.** Quantize this tensor again, in smaller groups or with more bits.
    """
    ratios = [t.numbers["snr_db"] for t in quantization.compared if "snr_db" in t.numbers]
    usual = median(ratios) if ratios else 0.0
    for tensor in quantization.compared:
        ratio = tensor.numbers.get("snr_db")
        if tensor.numbers.get("finite") == 0.0:
            yield (
                tensor.name,
                Verdict("Some decoded values are NaN or infinite. Quantize this tensor again.", 0.0, 1.0),
            )
        elif ratio is not None and ratio < MIN_SNR and ratio < usual - MIN_GAP:
            yield (
                tensor.name,
                Verdict(
                    f"Its error is {-ratio:+.1f} dB against its values, in the others {-usual:+.1f} dB. Quantize this "
                    f"tensor again, in smaller groups or with more bits.",
                    ratio,
                    MIN_SNR,
                ),
            )
