"""How a layer learns: the two factors of its block of the Fisher matrix, and its weight against its gradient.

S_x is the second moment of what comes in, S_d that of the gradients that come back, neither centred; under K-FAC the
block is S_x ⊗ S_d. Always read both factors: their product hides what they do (an input that fades over depth and a
gradient that fades the other way make a product that looks level).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.numerics import kronecker
from layerscope.numerics.spectrum import Spectrum

PAPER = "Huang et al., ECCV 2020 (arXiv 2002.10801)"
KAPPA_SHARES = (20, 50, 80, 100)
Learning = Mapping[str, float]


@metric(unit="a²", ref=PAPER, over_layers="", label="λmax Sx")
def lambda_max_x(input: Spectrum) -> float:
    """λmax of the inputs' second moment E[a aᵀ]: how large what comes in is. A slope over depth is decay or growth."""
    return float(input.evals[-1])


@metric(unit="(ℓ/h)²", ref=PAPER, over_layers="", label="λmax Sd")
def lambda_max_d(gradient: Spectrum) -> float:
    """λmax of the output-gradients' second moment E[d dᵀ]: how large what comes back is."""
    return float(gradient.evals[-1])


@metric(unit="(ℓ/W)²", ref=PAPER, over_layers="", label="λmax F")
def lambda_max_fim(input: Spectrum, gradient: Spectrum, learning: Learning) -> float:
    """λmax(S_x)·λmax(S_d), the steepness of the layer: gradient descent needs a rate below 2 over it.

    Of a convolution in groups, each of which has a block: that of the steepest.
    """
    if "groups_lambda_max" in learning:
        return learning["groups_lambda_max"]
    return float(input.evals[-1] * gradient.evals[-1])


@metric(unit="(ℓ/W)²", ref="Martens & Grosse, ICML 2015", over_layers="")
def trace_fim(learning: Learning) -> float:
    """tr S_x · tr S_d: the energy of the gradient over all directions; of groups, their sum."""
    return learning.get("groups_trace", learning["input_trace"] * learning["gradient_trace"])


@metric(unit="", ref=PAPER, over_layers="", fmt="d")
def rank_x(input: Spectrum, learning: Learning) -> int:
    """Directions that the inputs have; at most as many as rows were seen."""
    return kronecker.rank(_require_complete(input).evals, learning["input_eps"])


@metric(unit="", ref=PAPER, over_layers="", fmt="d")
def rank_d(gradient: Spectrum, learning: Learning) -> int:
    """Directions that the output-gradients have."""
    return kronecker.rank(_require_complete(gradient).evals, learning["gradient_eps"])


@metric(unit="", ref="Roy & Vetterli, EUSIPCO 2007", over_layers="", fmt=".1f")
def effective_rank_x(input: Spectrum) -> float:
    """exp of the entropy of S_x's eigenvalues: how many directions share what comes in."""
    return kronecker.effective_rank(_require_complete(input).evals)


@metric(unit="", ref="Roy & Vetterli, EUSIPCO 2007", over_layers="", fmt=".1f")
def effective_rank_d(gradient: Spectrum) -> float:
    """exp of the entropy of S_d's eigenvalues."""
    return kronecker.effective_rank(_require_complete(gradient).evals)


@metric(unit="", ref=PAPER, over_layers="", fmt=".2f")
def mean_energy(input: Spectrum, learning: Learning) -> float:
    """‖E a‖² / λmax(S_x): how much of the largest eigenvalue is the mean's; near 1 behind a ReLU without a norm."""
    return learning["mean_energy"] / _require_positive(float(input.evals[-1]), "the inputs are all zero")


@metric(unit="ℓ/W", ref=PAPER, over_layers="")
def grad_sigma_max(learning: Learning) -> float:
    """Largest singular value of the mean loss' gradient by W."""
    return learning["grad_sigma_max"]


@metric(unit="ℓ/W²", ref=PAPER, over_layers="", label="dominat.")
def domination(weight: Spectrum, learning: Learning) -> float:
    """σmax(∂L/∂W) / σmax(W): far below 1e-3 the weight is so large, or its gradient so small, that it hardly moves."""
    return learning["grad_sigma_max"] / _require_positive(math.sqrt(float(weight.evals[-1])), "the weight is zero")


@metric(unit="", ref="Cauchy–Schwarz on the factors", over_layers="", fmt=".3f")
def coherence(input: Spectrum, gradient: Spectrum, learning: Learning) -> float:
    """σmax(∂L/∂W) / √(T·λmax(S_x)·λmax(S_d)), at most 1: near 0 the examples' gradients cancel, noise or convergence.

    T rows of input per example; below 1/√N it is what noise alone would leave. Of the empirical Fisher only, and of
    the rows of "expand", is it bounded.
    """
    _require_one_group(learning)
    if "bounded" not in learning:
        raise Absent("of several positions it is bounded for the rows of expand only")
    bound = math.sqrt(
        learning["input_rows"] / learning["examples"] * float(input.evals[-1]) * float(gradient.evals[-1])
    )
    return learning["grad_sigma_max"] / _require_positive(bound, "no gradient comes back")


@metric(unit="", ref="van Laarhoven, arXiv 1706.05350", over_layers="", fmt=".3f")
def scale_invariance(weight: Spectrum, learning: Learning) -> float:
    """|⟨∂L/∂W, W⟩| / (‖∂L/∂W‖‖W‖): 0 where a normalisation after the layer takes the weight's scale out."""
    norms = learning["grad_fro"] * math.sqrt(float(weight.evals.sum()))
    return abs(learning["grad_along_weight"]) / _require_positive(norms, "no gradient comes back")


@metric(unit="", ref=PAPER, over_layers="", fmt="d", label="dying")
def dying(learning: Learning) -> int:
    """Units behind the layer's ReLU that no example activates: their gradient is zero, they can no longer learn."""
    return int(_require_relu(learning)["dying"])


@metric(unit="", ref=PAPER, over_layers="", fmt="d", label="full")
def full(learning: Learning) -> int:
    """Units behind the layer's ReLU that every example activates: linear ones, which only add to the mean."""
    return int(_require_relu(learning)["full"])


@metric(unit="(ℓ/W)²", ref="Karakida, Akaho & Amari, AISTATS 2019 (the dual of the Fisher matrix)", over_layers="")
def lambda_max_exact(fisher: Spectrum) -> float:
    """λmax of the layer's Fisher block itself, from the products of all examples' gradients."""
    return float(fisher.evals[-1])


@metric(unit="", ref="Martens & Grosse, ICML 2015", over_layers="", fmt=".2f")
def kfac_ratio(input: Spectrum, gradient: Spectrum, fisher: Spectrum) -> float:
    """λmax(S_x)·λmax(S_d) over λmax of the block itself: outside 1/3 to 3 the product is not to be trusted."""
    return float(input.evals[-1] * gradient.evals[-1]) / _require_positive(
        float(fisher.evals[-1]), "no gradient comes back"
    )


@metric(unit="", ref="Martens & Grosse, ICML 2015", over_layers="", fmt=".3f")
def kfac_cosine(fisher: Spectrum, learning: Learning) -> float:
    """⟨F, S_x ⊗ S_d⟩ / (‖F‖‖S_x ⊗ S_d‖): 1 where the product has the block's shape."""
    return _require(learning, "kfac_cosine", "no gradient comes back")


@metric(unit="(ℓ/W)²", ref="Karakida, Akaho & Amari, AISTATS 2019", over_layers="")
def sample_floor(fisher: Spectrum, learning: Learning) -> float:
    """max ‖gᵢ‖²/N: what λmax of the block is at least, of so few examples; near it, it is the sample's."""
    return learning["sample_floor"]


@metric(unit="", ref=PAPER, over_layers="")
def update_ratio(weight: Spectrum, learning: Learning) -> float:
    """lr · σmax(∂L/∂W) / σmax(W): a step of gradient descent beside the weight; above 0.5 it is another weight."""
    return _require(learning, "lr", "lr was not given") * float(domination(weight, learning))


@metric(unit="W", ref=PAPER, over_layers="")
def weight_sigma_max(weight: Spectrum, learning: Learning) -> float:
    """Largest singular value of W, a convolution's flattened to (out, in·kernel)."""
    return math.sqrt(float(weight.evals[-1]))


@metric(unit="", ref=PAPER, over_layers="", fmt=".2f", label="β < 0")
def beta_negative(learning: Learning) -> float:
    """Share of the shifts β of the batch normalisation behind the layer that are negative: towards inactive."""
    return _require(learning, "beta_negative", "its output goes into no batch normalisation with a shift")


@metric(unit="", ref=PAPER, over_layers="", fmt=".2f")
def beta_over_gamma(learning: Learning) -> float:
    """Mean of β/|γ| of that normalisation: in standard deviations, how far the units are shifted."""
    return _require(learning, "beta_over_gamma", "its output goes into no batch normalisation with a scale above zero")


@metric(unit="", ref=PAPER, over_layers="")
def kappa_nonzero_x(input: Spectrum, learning: Learning) -> float:
    """λmax of S_x over its smallest eigenvalue that is not zero."""
    return _require_finite(kronecker.kappa_nonzero(_require_complete(input).evals, learning["input_eps"]), 0)


@metric(unit="", ref=PAPER, over_layers="")
def kappa_nonzero_d(gradient: Spectrum, learning: Learning) -> float:
    """λmax of S_d over its smallest eigenvalue that is not zero."""
    return _require_finite(kronecker.kappa_nonzero(_require_complete(gradient).evals, learning["gradient_eps"]), 0)


@metric(unit="ℓ/W²", ref="Pearlmutter 1994; Lanczos 1950", over_layers="", label="λmax H")
def curvature_lambda_max(learning: Learning) -> float:
    """Largest eigenvalue of the weight's block of the Hessian, GGN or Fisher matrix that was asked for."""
    return _require(learning, "curvature_lambda_max", "not asked for (curvature_of), or not a weight that is trained")


@metric(unit="ℓ/W²", ref="Hutchinson 1990", over_layers="")
def curvature_trace(learning: Learning) -> float:
    """Trace of that block, by random probes."""
    return _require(learning, "curvature_trace", "not asked for (curvature_of), or not a weight that is trained")


@metric(unit="ℓ/W²", ref="Hutchinson 1990", over_layers="")
def curvature_trace_error(learning: Learning) -> float:
    """Standard error of that trace."""
    return _require(learning, "curvature_trace_error", "not asked for (curvature_of), or not a weight that is trained")


def _require(learning: Learning, name: str, reason: str) -> float:
    if name not in learning:
        raise Absent(reason)
    return learning[name]


def _require_complete(spectrum: Spectrum) -> Spectrum:
    if not spectrum.complete:
        raise Absent("larger than max_dim: only the largest eigenvalue was measured")
    return spectrum


def _require_relu(learning: Learning) -> Learning:
    if "units" not in learning:
        raise Absent("its output goes through no ReLU")
    return learning


def _kappa_of_input(share: int) -> Callable[..., float]:
    def kappa(input: Spectrum, learning: Learning) -> float:
        return _require_finite(kronecker.kappa(_require_complete(input).evals, share, learning["input_eps"]), share)

    return kappa


def _kappa_of_gradient(share: int) -> Callable[..., float]:
    def kappa(gradient: Spectrum, learning: Learning) -> float:
        return _require_finite(
            kronecker.kappa(_require_complete(gradient).evals, share, learning["gradient_eps"]), share
        )

    return kappa


def _kappa_of_product(share: int) -> Callable[..., float]:
    def kappa(input: Spectrum, gradient: Spectrum, learning: Learning) -> float:
        _require_one_group(learning)
        eps = max(learning["input_eps"], learning["gradient_eps"])
        return _require_finite(
            kronecker.product_kappa(_require_complete(input).evals, _require_complete(gradient).evals, share, eps),
            share,
        )

    return kappa


def _kappa_of_block(share: int) -> Callable[..., float]:
    def kappa(fisher: Spectrum, learning: Learning) -> float:
        eps = max(learning["input_eps"], learning["gradient_eps"])
        return _require_finite(kronecker.kappa(fisher.evals, share, eps, fisher.m), share)

    return kappa


KAPPA_FAMILIES = (
    ("x", "S_x", _kappa_of_input), ("d", "S_d", _kappa_of_gradient), ("fim", "S_x ⊗ S_d", _kappa_of_product),
    ("exact", "the layer's Fisher block itself", _kappa_of_block),
)  # fmt: skip


def _declare_kappa_columns() -> None:
    """κ of both factors, of the product and of the block at each share: one formula, sixteen columns."""
    for suffix, matrix, make_metric in KAPPA_FAMILIES:
        for share in KAPPA_SHARES:
            function = make_metric(share)
            function.__name__ = f"kappa_{share}_{suffix}"
            function.__doc__ = (
                f"λmax over the eigenvalue of {matrix} that {share} % of them reach; 100 % is the condition number."
                "\n\n"
                "It has no value where that eigenvalue is zero: too few rows, or directions that nothing uses."
            )
            globals()[function.__name__] = metric(
                unit="", ref=f"{PAPER}, κ_p", over_layers="", label=f"κ{share} {suffix.replace('fim', 'F')}"
            )(function)


def _require_finite(value: float, share: int) -> float:
    if not math.isfinite(value):
        raise Absent(f"fewer than {share} % of the eigenvalues are above zero")
    return value


def _require_positive(value: float, reason: str) -> float:
    if value <= 0:
        raise Absent(reason)
    return value


def _require_one_group(learning: Learning) -> None:
    if learning["groups"] > 1:
        raise Absent("a convolution in groups has a block for each of them: read the factors")


_declare_kappa_columns()
