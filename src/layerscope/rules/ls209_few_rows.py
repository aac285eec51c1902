"""There are too few examples to measure the condition number of the inputs."""

from __future__ import annotations

import math

from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings

MIN_ROWS_PER_DIRECTION = 4


@rule(
    "LS209",
    "too few rows",
    severity="info",
    needs=("lambda_max_x",),
    ref="Huang et al., ECCV 2020 (arXiv 2002.10801); Marchenko & Pastur 1967",
)
def few_rows(layer: LayerReport, settings: Settings) -> Verdict | None:
    """Fewer than four rows per direction of the inputs: λmax is about right, condition numbers are the sample's.

    **What it means.** A second moment of N rows has at most N directions, and its small eigenvalues are too small
    until N is several times their number.

    **Evidence.** Examples times positions against the width of the input.

    **Caveats.** With four rows per direction κ₅₀ was within a quarter of its value in experiments, with eight
    within an eighth; κ₁₀₀ needs many more.

    **What to try.** More data: batches are summed up, memory does not grow.
    """
    part = layer.parts["input"]
    if part.spectrum is None or part.facts.get("input_rows", math.inf) >= MIN_ROWS_PER_DIRECTION * part.spectrum.m:
        return None
    rows, d = int(part.facts["input_rows"]), part.spectrum.m
    message = f"{rows:,} rows for {d:,} directions: κ of this layer is not to be read"
    return Verdict(message, rows, MIN_ROWS_PER_DIRECTION * d)
