"""Simulated spectra of layers with independent entries: what an untrained layer of a shape gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Floats


def untrained_eigenvalues(rng: np.random.Generator, n: int, m: int, k: int = 1) -> Floats:
    """Draw the pooled eigenvalues of WᵀW of k matrices W (n, m), n ≥ m, of independent standard normal entries.

    WᵀW is drawn as LLᵀ with the lower triangular L of Bartlett's decomposition, so the cost does not depend on n. By
    universality, uniform, truncated and other independent entries of variance 1 give the same spectrum for large m.

    Source: Bartlett, Proc. R. Soc. Edinburgh 53 (1933).

    :return: k·m values, ascending.
    """
    values = np.empty((k, m))
    for i in range(k):
        factor = np.tril(rng.standard_normal((m, m)), -1)
        factor[np.diag_indices(m)] = np.sqrt(rng.chisquare(n - np.arange(m)))
        values[i] = np.linalg.eigvalsh(factor @ factor.T)
    return np.sort(values.ravel())
