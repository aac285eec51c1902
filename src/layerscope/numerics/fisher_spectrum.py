"""Exact spectra of Fisher blocks from layer inputs and output gradients, without the Kronecker approximation.

The per-example gradients of a layer are gᵢ = Σₜ dᵢₜ ⊗ xᵢₜ, so that gᵢ·gⱼ = Σₜₛ (xᵢₜ·xⱼₛ)(dᵢₜ·dⱼₛ). The N × N matrix
G = (gᵢ·gⱼ)/N has the nonzero eigenvalues of the Fisher block F = (1/N) Σ gᵢgᵢᵀ; no matrix over the parameters is
formed. The sum of G over all layers has the eigenvalues of the whole model's Fisher matrix. Inputs x have shape
(N, T, d), output gradients d have shape (N, T, o), with N examples and T positions; both are NumPy arrays. Source:
Karakida, Akaho & Amari, AISTATS 2019 (the dual of the Fisher matrix); Martens & Grosse, ICML 2015 (K-FAC).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from layerscope.numerics.lapack_eigenvalues import eigvalsh

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

BLOCK_ENTRIES = 1 << 24  # most entries of one block of products, to bound memory


class Quality(NamedTuple):
    """How well K-FAC's Kronecker product approximates a Fisher block."""

    cosine: float  # ⟨F, S_x ⊗ S_d⟩ / (‖F‖‖S_x ⊗ S_d‖), Frobenius norm; 1 if both are proportional
    floor: float  # max ‖gᵢ‖²/N: lower bound of λmax(F) for N examples


def gram(x: Array, d: Array) -> Floats:
    """Return G (N, N): inner products of the per-example gradients divided by N, in float64."""
    n, positions = x.shape[:2]
    if positions == 1:
        flat_x, flat_d = x[:, 0].astype(np.float64), d[:, 0].astype(np.float64)
        single: Floats = (flat_x @ flat_x.T) * (flat_d @ flat_d.T) / n
        return single
    products_over_n = np.empty((n, n))
    step = max(1, BLOCK_ENTRIES // (n * positions * positions))
    all_x, all_d = (rows.reshape(n * positions, -1).astype(np.float64) for rows in (x, d))
    for i in range(0, n, step):
        block_x, block_d = (rows[i * positions : (i + step) * positions] for rows in (all_x, all_d))
        products = (block_x @ all_x.T) * (block_d @ all_d.T)
        products_over_n[i : i + step] = products.reshape(-1, positions, n, positions).sum((1, 3)) / n
    return products_over_n


def spectrum(g: Floats) -> Floats:
    """Return the N eigenvalues of G in ascending order: the nonzero eigenvalues of F, and zeros."""
    evals: Floats = np.maximum(eigvalsh(g[None])[0].astype(np.float64), 0.0)
    return evals


def quality(g: Floats, x: Array, d: Array, s_x: Floats, s_d: Floats) -> Quality:
    """Compare K-FAC's product S_x ⊗ S_d with the exact block, given by its Gram matrix ``g`` and rows x, d."""
    x64, d64 = x.astype(np.float64), d.astype(np.float64)
    forms_x = np.einsum("nti,ij,nsj->nts", x64, s_x, x64, optimize=True)
    forms_d = np.einsum("nti,ij,nsj->nts", d64, s_d, d64, optimize=True)
    inner = float((forms_x * forms_d).sum()) / len(x)
    norms = float(np.linalg.norm(g) * np.linalg.norm(s_x) * np.linalg.norm(s_d))
    return Quality(inner / norms if norms > 0 else math.nan, float(g.diagonal().max()))
