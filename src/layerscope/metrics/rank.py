"""The number of directions that a layer uses: ranks and entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping

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


@metric(unit="", ref="ours", over_layers="", fmt="d")
def dead_outputs(units: Mapping[str, float]) -> int:
    """Number of outputs of the layer whose weights are zero: at most 10⁻⁶ of the norm of the median output's weights.

    Such a unit computes only its bias, whatever its input is.
    """
    return int(units["dead_output_units"])


@metric(unit="", ref="ours", over_layers="", fmt="d")
def dead_inputs(units: Mapping[str, float]) -> int:
    """Number of inputs that the layer ignores: their weights are at most 10⁻⁶ of the norm of the median input's.

    Inputs without information, such as the border of an image, lose their weights to weight decay.
    """
    return int(units["dead_input_units"])


@metric(unit="", ref="ours", fmt=".2f", over_layers="")
def norm_spread(units: Mapping[str, float]) -> float:
    """How much the norms of the units differ: 1 for independent entries, larger where training chose among units.

    It is the variance of the squared norms of the outputs' weights, or of the inputs', whichever is larger, relative to
    the variance that independent entries with the same moments have.
    """
    return max(units["output_norm_spread"], units["input_norm_spread"])


@metric(unit="", ref="ours", fmt=".1f", over_layers="")
def largest_weight(units: Mapping[str, float]) -> float:
    """Largest |weight|, in units of the root mean square of all weights; absent up to 10."""
    if units["largest_index"] < 0:
        raise Absent("no weight exceeds ten times the root mean square")
    return units["largest_ratio"]


def _require_nonzero(weight: Spectrum) -> None:
    if weight.evals[-1] <= 0:
        raise Absent("every weight is zero")
