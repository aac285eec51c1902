"""Second moments of rows that come in batches: sums that merge, so that many batches and many workers are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

STRIP_COLUMNS = 192  # columns of a strip: wide enough for a fast product, narrow enough to save half of them


@dataclass
class FactorSum:
    """Σ x xᵀ and Σ x over rows, nothing centred; of NumPy arrays or of tensors, on the device that the rows are on.

    The mean direction carries most of λmax of a ReLU layer's inputs, so that centring would remove what is looked for.
    Sums are of the rows' own precision: give float32 or wider.
    """

    second: Any = None  # (d, d)
    first: Any = None  # (d,)
    rows: int = 0

    def add(self, rows: Any) -> FactorSum:
        """Take up rows (r, d); returns itself."""
        first = rows.sum(0)
        self.second = gram_of_rows(rows) if self.second is None else self.second + gram_of_rows(rows)
        self.first = first if self.first is None else self.first + first
        self.rows += len(rows)
        return self

    def remove(self, rows: Any) -> FactorSum:
        """Take rows out again that were taken up; returns itself."""
        if len(rows):
            self.second = self.second - gram_of_rows(rows)
            self.first = self.first - rows.sum(0)
            self.rows -= len(rows)
        return self

    def merge(self, other: FactorSum) -> FactorSum:
        """The sum over the rows of both."""
        if self.second is None or other.second is None:
            whole = other if self.second is None else self
            return FactorSum(whole.second, whole.first, whole.rows)
        return FactorSum(self.second + other.second, self.first + other.first, self.rows + other.rows)

    def finish(self, count: float | None = None) -> Any:
        """Σ x xᵀ over ``count``, or over the rows: E[x xᵀ].

        :raises ValueError: no rows came.
        """
        if self.second is None:
            raise ValueError("no rows")
        return self.second / (self.rows if count is None else count)

    def mean_energy(self) -> float:
        """‖Σx‖² / r²: the energy of the mean, to be held against λmax."""
        return float((self.first * self.first).sum()) / self.rows**2


def gram_of_rows(rows: Any) -> Any:
    """rowsᵀ·rows (d, d), of wide rows by blocks: what lies below the diagonal is copied, not multiplied again."""
    d = rows.shape[1]
    if d < 2 * STRIP_COLUMNS:
        return rows.T @ rows
    whole = rows.new_empty((d, d)) if hasattr(rows, "new_empty") else np.empty((d, d), rows.dtype)
    for i in range(0, d, STRIP_COLUMNS):
        strip = rows[:, i : i + STRIP_COLUMNS].T @ rows[:, i:]
        whole[i : i + STRIP_COLUMNS, i:] = strip
        whole[i + STRIP_COLUMNS :, i : i + STRIP_COLUMNS] = strip[:, STRIP_COLUMNS:].T
    return whole
