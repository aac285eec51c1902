"""Peak of the estimated density of a small sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def peak_of(values: Sequence[float]) -> float:
    """Return the maximum of a kernel density estimate: Gaussian, width 0.9·min(sd, IQR/1.34)·n^−⅕ (Silverman 1986)."""
    x = np.sort(np.asarray(values, np.float64))
    quartiles = np.interp([0.25, 0.75], np.linspace(0, 1, len(x)), x)
    spread = min(float(x.std(ddof=1)), float(quartiles[1] - quartiles[0]) / 1.34) if len(x) > 1 else 0.0
    width = 0.9 * spread * len(x) ** -0.2
    if width <= 0:
        return float(x[len(x) // 2])
    grid = np.linspace(x[0], x[-1], 512)
    density = np.exp(-0.5 * np.square((grid[:, None] - x) / width)).sum(axis=1)
    return float(grid[density.argmax()])
