"""The Fisher blocks of captured layers themselves, and of all of them together, from the rows of all their examples."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.lenses.learning_statistics.kfac_hooks import LayerStatistics
from layerscope.numerics import fisher_spectrum

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

MAX_ROWS = 6000  # rows (examples times backward passes) of which all products are taken
DIGITS = 6  # significant, of an eigenvalue of the whole matrix


class FisherBlocks:
    """Of layers in one group that are called once a batch with a row per example; others have no block."""

    def __init__(self, layers: Iterable[LayerStatistics], examples: int) -> None:
        """:raises UsageError: more rows than ``MAX_ROWS``."""
        self._layers = {layer.name: layer for layer in layers if _has_block(layer)}
        self._examples = examples

    def __contains__(self, name: str) -> bool:
        return name in self._layers

    def rows(self, name: str) -> int:
        """Gradients of which the block consists."""
        return sum(len(rows) for _, rows in self._layers[name].stored_gradients)

    def gram(self, name: str) -> Floats:
        """Products of all examples' gradients (rows, rows): its eigenvalues are the block's that are not zero."""
        return self._gram(*_paired_rows(self._layers[name]))

    def facts(self, name: str) -> dict[str, float]:
        """How near K-FAC's product comes to the block, and what the block's λmax is at least of so few examples."""
        layer = self._layers[name]
        x, d = _paired_rows(layer)
        passes = len(x) / self._examples  # backward passes of one example: their blocks are summed, not averaged
        g = fisher_spectrum.gram(x, d)
        s_x, s_d = (factor[0].cpu().numpy().astype(np.float64) for factor in layer.factors(self._examples))
        cosine, floor = fisher_spectrum.quality(g, x, d, s_x, s_d / passes)
        facts = {"kfac_cosine": cosine, "sample_floor": floor * passes}
        return {name: value for name, value in facts.items() if math.isfinite(value)}

    def whole(self) -> dict[str, Any]:
        """Of the matrix of all these layers together: λmax, trace, its eigenvalues that are not zero, descending."""
        total: Any = 0.0
        for layer in self._layers.values():
            total = total + self._gram(*_paired_rows(layer))
        if not self._layers:
            return {}
        params = sum(len(layer.inputs[0].second) * len(layer.gradients[0].second) for layer in self._layers.values())
        evals = fisher_spectrum.spectrum(total)[::-1][:params]
        return {
            "layers": len(self._layers),
            "params": params,
            "rows": len(total),
            "lambda_max": float(evals[0]),
            "trace": float(evals.sum()),
            "evals": [float(f"{value:.{DIGITS}g}") for value in evals],
        }

    def _gram(self, x: Array, d: Array) -> Floats:
        return fisher_spectrum.gram(x, d) * (len(x) / self._examples)


def _has_block(layer: LayerStatistics) -> bool:
    """Was it called once in each batch, with a row for each example, and did as much come back?"""
    batches, sizes = [batch for batch, _ in layer.stored_inputs], layer.batches
    if layer.problem or len(layer.inputs) > 1 or layer.conv == "channels" or sorted(batches) != sorted(sizes):
        return False
    gradient_batches = [batch for batch, _ in layer.stored_gradients]
    passes, remainder = divmod(len(gradient_batches), len(batches))
    if remainder or any(gradient_batches.count(batch) != passes for batch in batches):
        return False
    shapes = {batch: rows.shape[:2] for batch, rows in layer.stored_inputs}
    if any(shape[0] != sizes[batch] for batch, shape in shapes.items()) or len({s[1] for s in shapes.values()}) > 1:
        return False
    if any(rows.shape[:2] != shapes[batch] for batch, rows in layer.stored_gradients):
        return False
    count = sum(sizes.values()) * passes
    if count > MAX_ROWS:
        raise UsageError(f"exact spectra of {count:,} rows take their square: at most {MAX_ROWS:,}")
    return bool(passes)


def _paired_rows(layer: LayerStatistics) -> tuple[Array, Array]:
    """(inputs, gradients), (rows, positions, d) each, of one pass after the other."""
    inputs = {batch: rows[:, :, 0] for batch, rows in layer.stored_inputs}
    x = np.concatenate([inputs[batch] for batch, _ in layer.stored_gradients])
    return x, np.concatenate([rows[:, :, 0] for _, rows in layer.stored_gradients])
