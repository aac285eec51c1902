"""How many operations and how much memory the spectrum of a layer takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerscope.numerics.spectra import BLOCK, _slices_at_once

if TYPE_CHECKING:
    pass


def cost(k: int, n: int, m: int) -> float:
    """Floating-point operations of :func:`esd`: k·(n·m² for the Gram matrix + 4/3·m³ for the eigenvalues)."""
    return k * (n * m * m + 4.0 / 3.0 * m**3)


def memory(k: int, n: int, m: int, itemsize: int) -> int:
    """Bytes that :func:`esd` holds at its peak: the tensor as stored, Gram matrices, the solver's copy, blocks."""
    at_once = _slices_at_once(k, m)
    block = at_once * m * min(n, max(BLOCK // (at_once * m), m // 2, 1))
    return k * n * m * itemsize + 8 * (2 * at_once * m * m + block + 4 * k * m)
