"""Exact Fisher blocks of single layers and of all layers together, from the rows of all examples."""

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

MAX_ROWS = 6000  # largest number of rows (examples times backward passes); memory grows with its square
DIGITS = 6  # significant digits of the eigenvalues of the whole matrix


class FisherBlocks:
    """Exact Fisher blocks of layers without groups that are called once per batch, with a row per example."""

    def __init__(self, layers: Iterable[LayerStatistics], examples: int) -> None:
        """:raises UsageError: a layer has more rows than ``MAX_ROWS``."""
        self._layers = {layer.name: layer for layer in layers if _has_block(layer)}
        self._examples = examples

    def __contains__(self, name: str) -> bool:
        return name in self._layers

    def rows(self, name: str) -> int:
        """Number of gradients that the block sums over."""
        return sum(len(rows) for _, rows in self._layers[name].stored_gradients)

    def gram(self, name: str) -> Floats:
        """Return the Gram matrix of all gradients (rows, rows); it has the nonzero eigenvalues of the block."""
        return self._gram(*_paired_rows(self._layers[name]))

    def facts(self, name: str) -> dict[str, float]:
        """Return the cosine between K-FAC's product and the block, and the smallest λmax with so few examples."""
        layer = self._layers[name]
        x, d = _paired_rows(layer)
        passes = len(x) / self._examples  # backward passes per example; their blocks are summed, not averaged
        g = fisher_spectrum.gram(x, d)
        s_x, s_d = (factor[0].cpu().numpy().astype(np.float64) for factor in layer.factors(self._examples))
        cosine, floor = fisher_spectrum.quality(g, x, d, s_x, s_d / passes)
        facts = {"kfac_cosine": cosine, "sample_floor": floor * passes}
        return {name: value for name, value in facts.items() if math.isfinite(value)}

    def whole(self) -> dict[str, Any]:
        """Return λmax, trace and nonzero eigenvalues (descending) of the Fisher matrix of all these layers together."""
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
    """Return whether the layer ran once in each batch, with a row and a gradient for each example.

    :raises UsageError: it has more rows than ``MAX_ROWS``.
    """
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
        raise UsageError(f"exact=True allows at most {MAX_ROWS:,} rows, not {count:,}; use fewer examples")
    return bool(passes)


def _paired_rows(layer: LayerStatistics) -> tuple[Array, Array]:
    """Return (inputs, gradients), each (rows, positions, d), concatenated over backward passes."""
    inputs = {batch: rows[:, :, 0] for batch, rows in layer.stored_inputs}
    x = np.concatenate([inputs[batch] for batch, _ in layer.stored_gradients])
    return x, np.concatenate([rows[:, :, 0] for _, rows in layer.stored_gradients])
