"""Conversion of numbers to values that JSON can represent."""

from __future__ import annotations

import math


def finite_or_none(value: float) -> float | None:
    """Return the number, or None if it is NaN or infinite."""
    return float(value) if math.isfinite(value) else None
