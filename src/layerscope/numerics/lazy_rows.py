"""A matrix whose rows are made when they are asked for: weights that are stored as codes and read as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array

BLOCK_ENTRIES = 1 << 20  # entries made at a time
MAX_EAGER_ENTRIES = 1 << 24  # entries up to which all rows are made at once


def lazy_rows(shape: tuple[int, ...], dtype: Any, make: Callable[[int, int], Array]) -> Array | Rows:
    """A matrix, or a stack of them, made row by row: an array where it is small, else Rows."""
    rows = Rows(shape, dtype, make)
    return np.asarray(rows) if math.prod(shape) <= MAX_EAGER_ENTRIES else rows


class Rows:
    """A matrix (n, m), or a stack (k, n, m), that answers slices of rows as an array does.

    ``make(start, stop)`` gives rows start to stop of all k·n as an array (stop − start, m) of ``dtype``. ``np.asarray``
    makes all of them.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, make: Callable[[int, int], Array]) -> None:
        self.shape, self.dtype, self.make = shape, np.dtype(dtype), make

    def stack(self) -> Rows:
        """A matrix as a stack of one."""
        return Rows((1, *self.shape), self.dtype, self.make)

    def matrix(self, index: int) -> Rows:
        """One matrix of a stack."""
        n = self.shape[1]
        first = range(0, self.shape[0] * n, n)[index]
        return Rows(self.shape[1:], self.dtype, lambda start, stop: self.make(first + start, first + stop))

    def __getitem__(self, key: Any) -> Any:
        """``stack[i]`` is a matrix; ``matrix[a:b]``, ``stack[i, a:b]`` and, of one matrix, ``stack[:, a:b]`` arrays."""
        if isinstance(key, int):
            return self.matrix(key)
        if isinstance(key, tuple):
            matrix, rows = key
            return self.matrix(matrix)[rows] if isinstance(matrix, int) else self.matrix(0)[rows][None]
        start, stop, step = key.indices(self.shape[0])
        if step != 1:
            raise IndexError("rows come in stretches")
        return self.make(start, stop)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        n, m = math.prod(self.shape[:-1]), self.shape[-1]
        whole = np.empty((n, m), self.dtype if dtype is None else dtype)
        step = max(1, BLOCK_ENTRIES // max(1, m))
        for start in range(0, n, step):
            whole[start : start + step] = self.make(start, min(n, start + step))
        return whole.reshape(self.shape)

    def astype(self, dtype: Any) -> Array:
        """All of them, as an array of ``dtype``."""
        return self.__array__(dtype)
