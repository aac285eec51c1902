"""Eigenvalues of symmetric matrices, computed outside Python's lock at every size.

``numpy.linalg.eigvalsh`` keeps the lock (GIL) for problems of up to 500 rows, counted over the whole stack, so that
threads would take turns on exactly the layers that transformers of moderate width are made of. There LAPACK's dsyevd,
the routine that NumPy itself calls, is called in NumPy's own OpenBLAS. Where that library is not the one that NumPy's
wheels carry, ``numpy.linalg.eigvalsh`` does the work; the numbers are the same.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from layerscope.types import Floats

NUMPY_RELEASES_FROM = 501  # rows, NumPy's NPY_BEGIN_THREADS_THRESHOLDED
WORTH_IT = 64  # rows below which a call costs more than it frees
SYMBOLS = {"scipy_dsyevd_64_": ctypes.c_int64, "scipy_dsyevd_": ctypes.c_int32}  # name → its integer


def eigvalsh(stack: Floats) -> Floats:
    """Eigenvalues of a stack (k, m, m) of symmetric matrices, each row of the result (k, m) ascending."""
    k, m, _ = stack.shape
    solve = _dsyevd() if m >= WORTH_IT and k * m < NUMPY_RELEASES_FROM else None
    if solve is None:
        return np.asarray(np.linalg.eigvalsh(stack), np.float64)
    return np.stack([solve(matrix) for matrix in stack])


@functools.cache
def _dsyevd() -> Callable[[Floats], Floats] | None:
    """dsyevd of NumPy's OpenBLAS, or None where NumPy was built with another library."""
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if "numpy" not in library["filepath"]:
            continue
        loaded = ctypes.CDLL(library["filepath"])
        for name, integer in SYMBOLS.items():
            if hasattr(loaded, name):
                return functools.partial(_solve, getattr(loaded, name), integer)
    return None


def _solve(dsyevd: Any, integer: Any, matrix: Floats) -> Floats:
    m = len(matrix)
    work_matrix = np.array(matrix, dtype=np.float64, order="C")  # overwritten; symmetric, so C or Fortran is one
    evals = np.empty(m)
    work, iwork = np.empty(2 * m + 1 + 32 * m), np.empty(1, dtype=np.dtype(integer))
    size, lwork, liwork, info = integer(m), integer(len(work)), integer(1), integer(0)
    # JOBZ, UPLO, N, A, LDA, W, WORK, LWORK, IWORK, LIWORK, INFO, then the lengths of the two strings.
    # UPLO "U" of the Fortran order is the lower triangle of NumPy's, the one eigvalsh reads.
    dsyevd(
        b"N", b"U", ctypes.byref(size), work_matrix.ctypes, ctypes.byref(size), evals.ctypes,
        work.ctypes, ctypes.byref(lwork), iwork.ctypes, ctypes.byref(liwork), ctypes.byref(info),
        ctypes.c_size_t(1), ctypes.c_size_t(1),
    )  # fmt: skip
    if info.value:
        raise np.linalg.LinAlgError(f"dsyevd: info {info.value}")
    return evals
