"""Second moments of rows that arrive in batches, as sums that can be merged across batches and workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

STRIP_COLUMNS = 192  # columns of a strip: wide enough for a fast product, narrow enough to skip the lower triangle


@dataclass
class FactorSum:
    """Sums Σ x xᵀ and Σ x over rows without centering, of NumPy arrays or of tensors on their device.

    Rows are not centered, because the mean direction carries most of λmax of a ReLU layer's inputs. Sums have the
    precision of the rows, so pass float32 or wider.
    """

    second: Any = None  # Σ x xᵀ (d, d)
    first: Any = None  # Σ x (d,)
    rows: int = 0  # number of rows added

    def add(self, rows: Any) -> FactorSum:
        """Add rows (r, d) and return self."""
        first = rows.sum(0)
        self.second = gram_of_rows(rows) if self.second is None else self.second + gram_of_rows(rows)
        self.first = first if self.first is None else self.first + first
        self.rows += len(rows)
        return self

    def remove(self, rows: Any) -> FactorSum:
        """Remove rows that were added before and return self."""
        if len(rows):
            self.second = self.second - gram_of_rows(rows)
            self.first = self.first - rows.sum(0)
            self.rows -= len(rows)
        return self

    def merge(self, other: FactorSum) -> FactorSum:
        """Return the sums over the rows of both."""
        if self.second is None or other.second is None:
            whole = other if self.second is None else self
            return FactorSum(whole.second, whole.first, whole.rows)
        return FactorSum(self.second + other.second, self.first + other.first, self.rows + other.rows)

    def finish(self, count: float | None = None) -> Any:
        """Return the second moment Σ x xᵀ / count; ``count`` is the number of rows by default.

        :raises ValueError: no rows were added.
        """
        if self.second is None:
            raise ValueError("no rows were added")
        return self.second / (self.rows if count is None else count)

    def mean_energy(self) -> float:
        """Return ‖Σx‖² / r², the squared length of the mean of r rows, to compare with λmax."""
        return float((self.first * self.first).sum()) / self.rows**2


def gram_of_rows(rows: Any) -> Any:
    """Return rowsᵀ·rows (d, d); for wide rows, the lower triangle is copied instead of computed."""
    d = rows.shape[1]
    if d < 2 * STRIP_COLUMNS:
        return rows.T @ rows
    whole = rows.new_empty((d, d)) if hasattr(rows, "new_empty") else np.empty((d, d), rows.dtype)
    for i in range(0, d, STRIP_COLUMNS):
        strip = rows[:, i : i + STRIP_COLUMNS].T @ rows[:, i:]
        whole[i : i + STRIP_COLUMNS, i:] = strip
        whole[i + STRIP_COLUMNS :, i : i + STRIP_COLUMNS] = strip[:, STRIP_COLUMNS:].T
    return whole
