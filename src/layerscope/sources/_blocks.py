"""The Fisher blocks of captured layers themselves, from the rows of all their examples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from layerscope.errors import UsageError
from layerscope.numerics import fisher
from layerscope.sources._capture import Caught

if TYPE_CHECKING:
    from layerscope.types import Array, Floats

MOST = 6000  # rows (examples times backward passes) of which all products are taken


def exact_blocks(caught: list[Caught], examples: int) -> dict[str, dict[str, float]]:
    """By layer: λmax of its block, how near K-FAC's product comes to it, and λmax and trace of all layers together.

    Of layers in one group that are called once a batch; others have no entry.

    :raises UsageError: more rows than ``MOST``.
    """
    found: dict[str, dict[str, float]] = {}
    grams: list[Floats] = []
    for entry in caught:
        rows = _rows(entry)
        if rows is None:
            continue
        x, d = rows
        passes = len(x) / examples  # backward passes of one example: their blocks are summed, not averaged
        g = fisher.gram(x, d)
        s_x, s_d = (factor[0].cpu().numpy().astype(np.float64) for factor in entry.factors(examples))
        quality = fisher.quality(g, x, d, s_x, s_d / passes)
        grams.append(g * passes)
        block = {
            "lambda_max_exact": float(fisher.spectrum(g)[-1]) * passes,
            "kfac_ratio": quality.ratio,
            "kfac_cosine": quality.cosine,
            "sample_floor": quality.floor * passes,
        }
        found[entry.name] = {name: value for name, value in block.items() if math.isfinite(value)}
    if grams:
        evals = fisher.spectrum(sum(grams[1:], grams[0]))
        whole = {
            "whole_lambda_max": float(evals[-1]),
            "whole_trace": float(evals.sum()),
            "whole_layers": float(len(grams)),
        }
        found = {name: block | whole for name, block in found.items()}
    return found


def _rows(entry: Caught) -> tuple[Array, Array] | None:
    """(inputs, gradients), (rows, positions, d) each, of one pass after the other; None where they do not pair."""
    calls, passes = len(entry.kept_inputs), len(entry.kept_gradients)
    if entry.problem or not calls or entry.calls != calls or passes % calls or len(entry.inputs) > 1:
        return None
    count = sum(map(len, entry.kept_inputs)) * (passes // calls)
    if count > MOST:
        raise UsageError(f"exact spectra of {count:,} rows take their square: at most {MOST:,}")
    x = np.concatenate([rows[:, :, 0] for rows in entry.kept_inputs for _ in range(passes // calls)])
    d = np.concatenate([rows[:, :, 0] for rows in entry.kept_gradients])
    return (x, d) if x.shape[:2] == d.shape[:2] and entry.conv != "channels" else None
