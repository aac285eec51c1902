"""The number of directions that a layer uses: ranks and entropy."""

from __future__ import annotations

import math

import numpy as np

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.metrics.references import HTSR
from layerscope.numerics.spectrum import Spectrum


@metric(unit="", ref="Rudelson & Vershynin, J. ACM 54 (2007)", fmt=".1f", label="st.rank")
def stable_rank(weight: Spectrum) -> float:
    """Stable rank ‖W‖_F² / λmax, between 1 and the rank.

    The matrices of a layer are pooled, so the value is up to k times that of a single matrix.
    """
    _require_nonzero(weight)
    return float(weight.evals.sum() / weight.evals[-1])


@metric(unit="", ref="Golub & Van Loan, Matrix Computations, 4th ed., §5.4.1", over_layers="", fmt="d")
def matrix_rank(weight: Spectrum) -> int:
    """Number of eigenvalues that are not zero within the precision of the weights and of the arithmetic."""
    return len(weight.live)


@metric(unit="", ref=HTSR, over_layers="", fmt="d")
def rank_loss(weight: Spectrum) -> int:
    """Number of eigenvalues that are zero to the precision of the weights: k·m − matrix_rank."""
    return len(weight.evals) - len(weight.live)


@metric(unit="", ref="WeightWatcher's weak_rank_loss, made relative", over_layers="", fmt="d")
def weak_rank_loss(weight: Spectrum) -> int:
    """Number of eigenvalues below 10⁻⁶·λmax."""
    _require_nonzero(weight)
    return int(np.searchsorted(weight.evals, 1e-6 * weight.evals[-1]))


@metric(unit="", ref=f"{HTSR} (matrix entropy)", fmt=".3f")
def entropy(weight: Spectrum) -> float:
    """Spectral entropy −Σp ln p / ln R, with p = λ/Σλ and the rank R: 1 for a flat spectrum, 0 for rank one."""
    _require_nonzero(weight)
    live = weight.live
    if len(live) <= 1:
        return 0.0
    p = live / live.sum()
    return float(-(p * np.log(p)).sum() / math.log(len(live)))


def _require_nonzero(weight: Spectrum) -> None:
    if weight.evals[-1] <= 0:
        raise Absent("every weight is zero")
