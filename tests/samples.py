"""Samples and spectra whose answer is known."""

from __future__ import annotations

import numpy as np

from layerscope.numerics.spectrum import Spectrum

# names that a checkpoint may give its layers
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "a\"b'c`d",
    "\u202egnp.exe",
    "x" * 500,
    "new\nline",
    "$\\frac{$",
    "_private$",
]


def spectrum_of(values: np.ndarray, m: int | None = None) -> Spectrum:
    """A spectrum with just these eigenvalues."""
    evals = np.sort(np.asarray(values, np.float64))
    return Spectrum(evals, m or len(evals), m or len(evals), 1, 0.0)


def pareto(rng: np.random.Generator, alpha: float, n: int, xmin: float = 1.0) -> np.ndarray:
    """n draws of p(x) ∝ x^−α, x ≥ xmin, by inversion."""
    return xmin * (1 - rng.random(n)) ** (-1 / (alpha - 1))


def with_singular_values(rng: np.random.Generator, singular: np.ndarray, n: int) -> np.ndarray:
    """An n × m matrix with exactly these singular values."""
    m = len(singular)
    left, _ = np.linalg.qr(rng.standard_normal((n, m)))
    right, _ = np.linalg.qr(rng.standard_normal((m, m)))
    return (left * singular) @ right.T
