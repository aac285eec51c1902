"""Matrices with lazily computed rows, for weights that are stored as quantized codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array

BLOCK_ENTRIES = 1 << 20  # entries computed at a time
MAX_EAGER_ENTRIES = 1 << 24  # up to this number of entries, all rows are computed at once


def lazy_rows(shape: tuple[int, ...], dtype: Any, make: Callable[[int, int], Array]) -> Array | Rows:
    """Return a matrix or stack of lazily computed rows: an array if it is small, otherwise :class:`Rows`."""
    rows = Rows(shape, dtype, make)
    return np.asarray(rows) if math.prod(shape) <= MAX_EAGER_ENTRIES else rows


class Rows:
    """A matrix (n, m) or a stack (k, n, m) that supports slicing of rows like an array.

    ``make(start, stop)`` returns the rows start to stop, of k·n rows in total, as an array (stop − start, m) of
    ``dtype``. ``np.asarray`` computes all rows.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, make: Callable[[int, int], Array]) -> None:
        self.shape, self.dtype, self.make = shape, np.dtype(dtype), make

    def stack(self) -> Rows:
        """Return the matrix as a stack of one matrix."""
        return Rows((1, *self.shape), self.dtype, self.make)

    def matrix(self, index: int) -> Rows:
        """Return one matrix of the stack."""
        n = self.shape[1]
        first = range(0, self.shape[0] * n, n)[index]
        return Rows(self.shape[1:], self.dtype, lambda start, stop: self.make(first + start, first + stop))

    def __getitem__(self, key: Any) -> Any:
        """Return a matrix for ``stack[i]`` and an array for ``matrix[a:b]`` or ``stack[i, a:b]``.

        A stack of one matrix also supports ``stack[:, a:b]``.
        """
        if isinstance(key, int):
            return self.matrix(key)
        if isinstance(key, tuple):
            matrix, rows = key
            return self.matrix(matrix)[rows] if isinstance(matrix, int) else self.matrix(0)[rows][None]
        start, stop, step = key.indices(self.shape[0])
        if step != 1:
            raise IndexError(f"slices of rows must have step 1, not {step}")
        return self.make(start, stop)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        n, m = math.prod(self.shape[:-1]), self.shape[-1]
        whole = np.empty((n, m), self.dtype if dtype is None else dtype)
        step = max(1, BLOCK_ENTRIES // max(1, m))
        for start in range(0, n, step):
            whole[start : start + step] = self.make(start, min(n, start + step))
        return whole.reshape(self.shape)

    def astype(self, dtype: Any) -> Array:
        """Return all rows as an array of ``dtype``."""
        return self.__array__(dtype)
