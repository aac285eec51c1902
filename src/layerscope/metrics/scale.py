"""The scale of a layer: norms and singular values."""

from __future__ import annotations

import math

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.metrics.references import HTSR
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit


@metric(unit="W²", ref=HTSR, label="λmax")
def lambda_max(weight: Spectrum) -> float:
    """Largest eigenvalue of WᵀW, σmax(W)²."""
    return float(weight.evals[-1])


@metric(unit="W²", ref=HTSR)
def spectral_norm(weight: Spectrum) -> float:
    """λmax under the name that WeightWatcher uses: the *square* of the spectral norm ‖W‖₂."""
    return float(weight.evals[-1])


@metric(unit="W", ref="Golub & Van Loan, Matrix Computations, 4th ed., §2.4")
def sv_max(weight: Spectrum) -> float:
    """Largest singular value of W, √λmax = ‖W‖₂."""
    return math.sqrt(weight.evals[-1])


@metric(unit="W", ref="Golub & Van Loan, Matrix Computations, 4th ed., §2.4", over_layers="")
def sv_min(weight: Spectrum) -> float:
    """Smallest singular value over all matrices of the layer."""
    return math.sqrt(weight.evals[0])


@metric(unit="W²", ref="Martin, Peng & Mahoney, Nat. Commun. 12, 4122")
def norm(weight: Spectrum) -> float:
    """Squared Frobenius norm, Σλ = ‖W‖_F² (the definition that WeightWatcher uses)."""
    return float(weight.evals.sum())


@metric(unit="log10 W²", ref="Martin, Peng & Mahoney, Nat. Commun. 12, 4122", label="log‖W‖²")
def log_norm(weight: Spectrum) -> float:
    """log10 ‖W‖_F²; the log norm in the papers of 2020 is half of it."""
    return log10(norm(weight))


@metric(unit="log10 W²", ref="Martin, Peng & Mahoney, Nat. Commun. 12, 4122", fmt=".2f", label="logλmax")
def log_spectral_norm(weight: Spectrum) -> float:
    """log10 λmax, the scale of the layer's strongest direction."""
    return log10(lambda_max(weight))


@metric(unit="log10 W²", ref="Martin, Peng & Mahoney, Nat. Commun. 12, 4122, eq. 5", fmt=".2f", label="α̂")
def alpha_weighted(weight: Spectrum, power_law: Fit) -> float:
    """α-hat = α·log10 λmax combines shape and scale in one number; it changes if the weights are rescaled."""
    return power_law.params["alpha"] * log10(lambda_max(weight))


@metric(unit="log10 W^2α", ref="Martin, Peng & Mahoney, Nat. Commun. 12, 4122, eq. 6")
def log_alpha_norm(weight: Spectrum, power_law: Fit) -> float:
    """Logarithm of the α-Schatten norm, log10 Σλ^α.

    It is computed as α·log10 λmax + log10 Σ(λ/λmax)^α, so that no power overflows.
    """
    top = lambda_max(weight)
    alpha = power_law.params["alpha"]
    return alpha * log10(top) + math.log10(float(((weight.evals / top) ** alpha).sum()))


def log10(value: float) -> float:
    """Return log10 of a value; at zero, raise Absent instead of returning −∞."""
    if value <= 0:
        raise Absent("every weight is zero")
    return math.log10(value)
