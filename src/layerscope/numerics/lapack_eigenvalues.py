"""Eigenvalues of symmetric matrices, with the LAPACK routine that suits their size, called without the GIL.

``numpy.linalg.eigvalsh`` holds the GIL for matrices of up to 500 rows, which prevents threads from solving typical
transformer layers in parallel. It also always reduces to tridiagonal form in one stage, which is limited by memory
bandwidth once the matrix exceeds the cache. This module calls routines of NumPy's own OpenBLAS directly: dsyevd (as
NumPy does), and dsyevd_2stage for large matrices (1.7 times faster at 4096 rows). If NumPy does not use the OpenBLAS of
its wheels, ``numpy.linalg.eigvalsh`` is used instead.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array

MIN_ROWS_FOR_LAPACK = 64  # below this number of rows, the direct call costs more than it saves
MIN_ROWS_FOR_TWO_STAGE = 2560  # rows from which the two-stage reduction is faster
INTEGER_BY_SUFFIX = {"64_": ctypes.c_int64, "_": ctypes.c_int32}  # symbol suffix in NumPy's OpenBLAS → integer


class Lapack(NamedTuple):
    """LAPACK routines of one library for one precision, and their integer type."""

    one_stage: Callable[..., None]
    two_stage: Callable[..., None]
    integer: Any


def eigvalsh(stack: Array) -> Array:
    """Return the eigenvalues (k, m), each row ascending, of a stack (k, m, m) of symmetric matrices.

    Matrices are float64 or float32.

    :raises numpy.linalg.LinAlgError: LAPACK did not converge.
    """
    lapack = (
        find_numpy_lapack("s" if stack.dtype == np.float32 else "d") if stack.shape[1] >= MIN_ROWS_FOR_LAPACK else None
    )
    if lapack is None:
        return np.asarray(np.linalg.eigvalsh(stack))
    return np.stack([_solve_matrix(lapack, matrix) for matrix in stack])


@functools.cache
def find_numpy_lapack(precision: str = "d") -> Lapack | None:
    """Return the LAPACK routines in NumPy's wheel, or None if NumPy was built with another library.

    :param precision: LAPACK's letter: "d" for float64, "s" for float32.
    """
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if "numpy" not in library["filepath"]:
            continue
        loaded = ctypes.CDLL(library["filepath"])
        for suffix, integer in INTEGER_BY_SUFFIX.items():
            names = (f"scipy_{precision}syevd{middle}{suffix}" for middle in ("_", "_2stage_"))
            one_stage, two_stage = (getattr(loaded, name, None) for name in names)
            if one_stage is not None and two_stage is not None:
                return Lapack(one_stage, two_stage, integer)
    return None


def _solve_matrix(lapack: Lapack, matrix: Array) -> Array:
    """Compute the eigenvalues of one matrix (JOBZ = 'N'); as it is symmetric, C and Fortran order are equivalent."""
    m = len(matrix)
    two_stage = m >= MIN_ROWS_FOR_TWO_STAGE
    # the two-stage routine supports only "L"; the one-stage routine is slightly faster with "U"
    routine, triangle = (lapack.two_stage, b"L") if two_stage else (lapack.one_stage, b"U")
    copy, evals = np.array(matrix, order="C"), np.empty(m, matrix.dtype)
    work, iwork = np.empty(1, matrix.dtype), np.empty(1, np.dtype(lapack.integer))

    def call(lwork: int, liwork: int) -> None:
        sizes = [ctypes.byref(lapack.integer(x)) for x in (m, m, lwork, liwork)]
        info = lapack.integer(0)
        routine(
            b"N", triangle, sizes[0], copy.ctypes, sizes[1], evals.ctypes, work.ctypes, sizes[2], iwork.ctypes,
            sizes[3], ctypes.byref(info), ctypes.c_size_t(1), ctypes.c_size_t(1),
        )  # fmt: skip
        if info.value:
            raise np.linalg.LinAlgError(f"syevd{'_2stage' if two_stage else ''} failed with info = {info.value}")

    call(-1, -1)  # workspace query
    work, iwork = np.empty(workspace_size(work[0]), matrix.dtype), np.empty(max(1, int(iwork[0])), iwork.dtype)
    call(len(work), len(iwork))
    return evals


def workspace_size(requested: float) -> int:
    """Round the requested workspace size up, because LAPACK returns it as a float of about seven digits."""
    return int(np.ceil(float(requested) * (1 + 1e-6)))
