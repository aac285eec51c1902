"""Masks, recognized by their values: matrices of zeros and ones whose names do not say that they are weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array

PROBED_ENTRIES = 1 << 12  # read first; those of almost every weight hold another value
MAX_ADDED = -1e3  # numbers up to this one, added to attention scores, exclude an entry
MIN_ENTRIES = 64  # a smaller matrix of zeros and ones may be a weight
CHUNK_ENTRIES = 1 << 20
MASK = ("mask", "a mask by its values (only zeros and ones, or zeros and one large negative number): not learned")


def is_mask(fetch: Callable[[str], Any], name: str) -> bool:
    """Does the tensor hold nothing but zeros and ones, or zeros and one large negative number, and both of them?

    Reading stops at the first other value. The answer is False for a tensor that cannot be read; the analysis reads it
    again and reports the reason.
    """
    try:
        flat: Array = np.asarray(fetch(name)).reshape(-1)
    except Exception:  # whatever a damaged file causes
        return False
    if flat.size < MIN_ENTRIES:
        return False
    mark = _mark_of(flat[:PROBED_ENTRIES])
    if mark == 0:
        return False
    has_zeros = has_ones = False
    start, size = 0, PROBED_ENTRIES
    while start < flat.size:
        part = flat[start : start + size]
        zeros, ones = int((part == 0).sum()), int((part == mark).sum())
        if zeros + ones != part.size:
            return False
        has_zeros, has_ones = has_zeros or zeros > 0, has_ones or ones > 0
        start, size = start + size, CHUNK_ENTRIES
    return has_zeros and has_ones


def _mark_of(first: Array) -> float:
    """The value beside zero that marks entries: 1, or a large negative one that is added to scores; 0 if none can."""
    lowest = float(first.min()) if len(first) else 0.0
    if lowest <= MAX_ADDED:
        return lowest
    return 1.0 if lowest in (0.0, 1.0) else 0.0
