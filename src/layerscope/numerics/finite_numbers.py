"""Numbers that JSON can hold."""

from __future__ import annotations

import math


def finite_or_none(value: float) -> float | None:
    """The number, or None where it is NaN or infinite."""
    return float(value) if math.isfinite(value) else None
