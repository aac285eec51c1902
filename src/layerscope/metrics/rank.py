"""How many directions a layer uses."""

from __future__ import annotations

import math

import numpy as np

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.metrics.references import HTSR
from layerscope.numerics.spectrum import Spectrum


@metric(unit="", ref="Rudelson & Vershynin, J. ACM 54 (2007)", fmt=".1f", label="st.rank")
def stable_rank(weight: Spectrum) -> float:
    """‖W‖_F² / λmax, between 1 and the rank; pooled over the matrices of the layer, so up to k times that of one."""
    _require_nonzero(weight)
    return float(weight.evals.sum() / weight.evals[-1])


@metric(unit="", ref="Golub & Van Loan, Matrix Computations, 4th ed., §5.4.1", over_layers="", fmt="d")
def matrix_rank(weight: Spectrum) -> int:
    """Eigenvalues above the floor that arithmetic and the weights' own rounding set."""
    return len(weight.live)


@metric(unit="", ref=HTSR, over_layers="", fmt="d")
def rank_loss(weight: Spectrum) -> int:
    """Eigenvalues that are zero to the weights' precision: k·m − matrix_rank."""
    return len(weight.evals) - len(weight.live)


@metric(unit="", ref="WeightWatcher's weak_rank_loss, made relative", over_layers="", fmt="d")
def weak_rank_loss(weight: Spectrum) -> int:
    """Eigenvalues below 10⁻⁶·λmax."""
    _require_nonzero(weight)
    return int(np.searchsorted(weight.evals, 1e-6 * weight.evals[-1]))


@metric(unit="", ref=f"{HTSR} (matrix entropy)", fmt=".3f")
def entropy(weight: Spectrum) -> float:
    """Spectral entropy −Σp ln p / ln R, p = λ/Σλ, R the rank; 1 for a flat spectrum, 0 for rank one."""
    _require_nonzero(weight)
    live = weight.live
    if len(live) <= 1:
        return 0.0
    p = live / live.sum()
    return float(-(p * np.log(p)).sum() / math.log(len(live)))


def _require_nonzero(weight: Spectrum) -> None:
    if weight.evals[-1] <= 0:
        raise Absent("every weight is zero")
