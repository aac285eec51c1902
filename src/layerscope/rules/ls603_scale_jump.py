"""Rule LS603: the scale of a layer jumped compared with the first model of a comparison."""

from __future__ import annotations

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS603",
    "scale jump",
    severity="warn",
    needs=("log_spectral_norm",),
    over="comparison",
    ref="Yoshida & Miyato, arXiv 1705.10941 (spectral norm and sensitivity)",
)
def scale_jump(before: LayerReport, after: LayerReport, settings: Settings) -> Verdict | None:
    """λmax of a layer changed by a factor of ten or more between two models.

    **What it means.** The layer scales its inputs unlike before: a wrong scale after quantization or merging, or a
    training that blew up.

    **Evidence.** log10 λmax in both models.

    **Caveats.** A normalization layer beside it can compensate for any scale.

    **What to try.** Check the scale factors of the conversion, and the normalization around the layer.
    """
    old, new = float(before.metrics["log_spectral_norm"]), float(after.metrics["log_spectral_norm"])
    limit = settings.limits.scale_outlier
    if abs(new - old) < limit:
        return None
    times, word = 10 ** abs(new - old), "larger" if new > old else "smaller"
    return Verdict(
        f"λmax is {times:.3g} times {word} than before (limit: {10**limit:.3g} times). Check the scale factors of the "
        "conversion, and the normalization around the layer.",
        new,
        old,
    )
