"""The Fisher blocks of captured layers themselves, and of all of them together, from the rows of all their examples."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.lenses.learning_statistics.kfac_hooks import Caught
from layerscope.numerics import fisher_spectrum

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

MOST = 6000  # rows (examples times backward passes) of which all products are taken
DIGITS = 6  # significant, of an eigenvalue of the whole matrix


class Blocks:
    """Of layers in one group that are called once a batch with a row per example; others have no block."""

    def __init__(self, caught: Iterable[Caught], examples: int) -> None:
        """:raises UsageError: more rows than ``MOST``."""
        self._caught = {entry.name: entry for entry in caught if _pairs(entry)}
        self._examples = examples

    def __contains__(self, name: str) -> bool:
        return name in self._caught

    def rows(self, name: str) -> int:
        """Gradients of which the block consists."""
        return sum(len(rows) for _, rows in self._caught[name].kept_gradients)

    def gram(self, name: str) -> Floats:
        """Products of all examples' gradients (rows, rows): its eigenvalues are the block's that are not zero."""
        return self._gram(*_rows(self._caught[name]))

    def facts(self, name: str) -> dict[str, float]:
        """How near K-FAC's product comes to the block, and what the block's λmax is at least of so few examples."""
        entry = self._caught[name]
        x, d = _rows(entry)
        passes = len(x) / self._examples  # backward passes of one example: their blocks are summed, not averaged
        g = fisher_spectrum.gram(x, d)
        s_x, s_d = (factor[0].cpu().numpy().astype(np.float64) for factor in entry.factors(self._examples))
        cosine, floor = fisher_spectrum.quality(g, x, d, s_x, s_d / passes)
        found = {"kfac_cosine": cosine, "sample_floor": floor * passes}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def whole(self) -> dict[str, Any]:
        """Of the matrix of all these layers together: λmax, trace, its eigenvalues that are not zero, descending."""
        total: Any = 0.0
        for entry in self._caught.values():
            total = total + self._gram(*_rows(entry))
        if not self._caught:
            return {}
        params = sum(len(e.inputs[0].second) * len(e.gradients[0].second) for e in self._caught.values())
        evals = fisher_spectrum.spectrum(total)[::-1][:params]
        return {
            "layers": len(self._caught),
            "params": params,
            "rows": len(total),
            "lambda_max": float(evals[0]),
            "trace": float(evals.sum()),
            "evals": [float(f"{value:.{DIGITS}g}") for value in evals],
        }

    def _gram(self, x: Array, d: Array) -> Floats:
        return fisher_spectrum.gram(x, d) * (len(x) / self._examples)


def _pairs(entry: Caught) -> bool:
    """Was it called once in each batch, with a row for each example, and did as much come back?"""
    batches, sizes = [batch for batch, _ in entry.kept_inputs], entry.batches
    if entry.problem or len(entry.inputs) > 1 or entry.conv == "channels" or sorted(batches) != sorted(sizes):
        return False
    back = [batch for batch, _ in entry.kept_gradients]
    passes, rest = divmod(len(back), len(batches))
    if rest or any(back.count(batch) != passes for batch in batches):
        return False
    shapes = {batch: rows.shape[:2] for batch, rows in entry.kept_inputs}
    if any(shape[0] != sizes[batch] for batch, shape in shapes.items()) or len({s[1] for s in shapes.values()}) > 1:
        return False
    if any(rows.shape[:2] != shapes[batch] for batch, rows in entry.kept_gradients):
        return False
    count = sum(sizes.values()) * passes
    if count > MOST:
        raise UsageError(f"exact spectra of {count:,} rows take their square: at most {MOST:,}")
    return bool(passes)


def _rows(entry: Caught) -> tuple[Array, Array]:
    """(inputs, gradients), (rows, positions, d) each, of one pass after the other."""
    inside = {batch: rows[:, :, 0] for batch, rows in entry.kept_inputs}
    x = np.concatenate([inside[batch] for batch, _ in entry.kept_gradients])
    return x, np.concatenate([rows[:, :, 0] for _, rows in entry.kept_gradients])
