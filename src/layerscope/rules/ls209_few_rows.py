"""Rule LS209: there are too few examples to measure the condition number of the inputs."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

MIN_ROWS_PER_DIRECTION = 4


@rule(
    "LS209",
    "too few rows for condition numbers",
    severity="info",
    needs=("lambda_max_x",),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801); Marchenko & Pastur 1967",
)
def few_rows(layer: LayerReport, settings: Settings) -> Verdict | None:
    """There are fewer than four rows per direction of the inputs, so condition numbers depend on the sample.

    **What it means.** A second moment of N rows has at most N directions, and its small eigenvalues are too small until
    N is several times the number of directions. λmax is about right even with few rows.

    **Evidence.** The number of rows (examples times positions) compared with the width of the input.

    **Caveats.** In experiments, κ₅₀ was within a quarter of its value with four rows per direction, and within an
    eighth with eight. κ₁₀₀ needs many more.

    **What to try.** Use more examples. Batches are summed, so memory does not grow.
    """
    part = layer.parts["input"]
    if part.spectrum is None or part.facts.get("input_rows", math.inf) >= MIN_ROWS_PER_DIRECTION * part.spectrum.m:
        return None
    rows, d = int(part.facts["input_rows"]), part.spectrum.m
    message = (
        f"{rows:,} rows for {d:,} directions, but condition numbers need {MIN_ROWS_PER_DIRECTION} rows per direction. "
        "κ of this layer depends on the sample; λmax is about right. Use more examples."
    )
    return Verdict(message, rows, MIN_ROWS_PER_DIRECTION * d)
