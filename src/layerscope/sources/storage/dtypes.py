"""NumPy dtypes of stored arrays by name, and the limit on the number of axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from layerscope.errors import Unreadable

MAX_AXES = 64  # NumPy's limit
KNOWN_DTYPES = {
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "complex64", "complex128", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
}  # fmt: skip


def is_size(value: Any) -> bool:
    """Return whether the value is a possible count of entries or bytes."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def as_dtype(name: str) -> np.dtype[Any]:
    """Return the little-endian NumPy dtype for a numpy-style name; narrow floats come from ml_dtypes.

    :raises Unreadable: the name is not in ``KNOWN_DTYPES``.
    """
    if name not in KNOWN_DTYPES:
        raise Unreadable(f"the data type {name[:40]!r} is not supported")
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        narrow_dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return narrow_dtype
    plain_dtype: np.dtype[Any] = np.dtype(name).newbyteorder("<")
    return plain_dtype
