"""How a layer learns: the two factors of its block of the Fisher matrix, and its weight compared with its gradient.

S_x is the covariance of the layer inputs and S_d that of the output gradients, both without subtracting the mean. Under
K-FAC, the layer's block of the Fisher matrix is S_x ⊗ S_d. Always read both factors, because their product hides
opposite slopes: inputs that shrink with depth and gradients that shrink in the other direction give a product that
looks constant.
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


SHARED = "the weight is computed, and used outside of its layer too, so the layer's rows do not give its gradient"


@metric(unit="a²", ref=PAPER, over_layers="", label="λmax Sx")
def lambda_max_x(input: Spectrum) -> float:
    """Largest eigenvalue of the input covariance S_x = E[a aᵀ]: the scale of the layer inputs.

    A steady slope over depth means that the signal vanishes or explodes (LS201).
    """
    return float(input.evals[-1])


@metric(unit="(ℓ/h)²", ref=PAPER, over_layers="", label="λmax Sd")
def lambda_max_d(gradient: Spectrum) -> float:
    """Largest eigenvalue of the gradient covariance S_d = E[d dᵀ]: the scale of the output gradients.

    A steady slope over depth means that the gradients vanish or explode (LS202).
    """
    return float(gradient.evals[-1])


@metric(unit="(ℓ/W)²", ref=PAPER, over_layers="", label="λmax F")
def lambda_max_fim(input: Spectrum, gradient: Spectrum, learning: Learning) -> float:
    """Largest curvature of the layer, λmax(S_x)·λmax(S_d): gradient descent needs a learning rate below 2 over it.

    For a grouped convolution, in which each group has its own block, it is the largest of the groups.
    """
    if "groups_lambda_max" in learning:
        return learning["groups_lambda_max"]
    return float(input.evals[-1] * gradient.evals[-1])


@metric(unit="(ℓ/W)²", ref="Martens & Grosse, ICML 2015", over_layers="")
def trace_fim(learning: Learning) -> float:
    """Trace of the layer's Fisher block, tr S_x · tr S_d: the energy of the gradient over all directions.

    For a grouped convolution, it is the sum over the groups.
    """
    return learning.get("groups_trace", learning["input_trace"] * learning["gradient_trace"])


@metric(unit="", ref=PAPER, over_layers="", fmt="d")
def rank_x(input: Spectrum, learning: Learning) -> int:
    """Rank of the input covariance S_x; at most the number of rows measured."""
    return kronecker.rank(_require_complete(input).evals, learning["input_eps"])


@metric(unit="", ref=PAPER, over_layers="", fmt="d")
def rank_d(gradient: Spectrum, learning: Learning) -> int:
    """Rank of the gradient covariance S_d; at most the number of rows measured."""
    return kronecker.rank(_require_complete(gradient).evals, learning["gradient_eps"])


@metric(unit="", ref="Roy & Vetterli, EUSIPCO 2007", over_layers="", fmt=".1f")
def effective_rank_x(input: Spectrum) -> float:
    """Effective number of directions of the inputs: exp of the entropy of the eigenvalues of S_x."""
    return kronecker.effective_rank(_require_complete(input).evals)


@metric(unit="", ref="Roy & Vetterli, EUSIPCO 2007", over_layers="", fmt=".1f")
def effective_rank_d(gradient: Spectrum) -> float:
    """Effective number of directions of the output gradients: exp of the entropy of the eigenvalues of S_d."""
    return kronecker.effective_rank(_require_complete(gradient).evals)


@metric(unit="", ref=PAPER, over_layers="", fmt=".2f")
def mean_energy(input: Spectrum, learning: Learning) -> float:
    """Share of λmax(S_x) that the mean of the inputs accounts for, ‖E a‖² / λmax(S_x).

    It is near 1 after a ReLU without normalization.
    """
    return learning["mean_energy"] / _require_positive(float(input.evals[-1]), "the inputs are all zero")


@metric(unit="ℓ/W", ref=PAPER, over_layers="")
def grad_sigma_max(learning: Learning) -> float:
    """Largest singular value of ∂L/∂W, the gradient of the mean loss with respect to W."""
    return _require(learning, "grad_sigma_max", SHARED)


@metric(unit="ℓ/W²", ref=PAPER, over_layers="", label="dominat.")
def domination(weight: Spectrum, learning: Learning) -> float:
    """Gradient over weight, σmax(∂L/∂W) / σmax(W): below 1e-3 training hardly changes the weight.

    Healthy runs have 0.05 to 1.3. A small value at a high loss is weight domination (LS206), at a small loss it is
    convergence (LS207).
    """
    return _require(learning, "grad_sigma_max", SHARED) / _require_positive(
        math.sqrt(float(weight.evals[-1])), "the weight is zero"
    )


@metric(unit="", ref="Cauchy–Schwarz on the factors", over_layers="", fmt=".3f")
def coherence(input: Spectrum, gradient: Spectrum, learning: Learning) -> float:
    """Agreement of the examples' gradients, σmax(∂L/∂W) / √(T·λmax(S_x)·λmax(S_d)), at most 1; near 0 they cancel.

    T is the number of input rows per example. Below 1/√N for N examples, the gradients are indistinguishable from
    noise. The bound of 1 holds for the empirical Fisher matrix and for conv="expand" only.
    """
    _require_one_group(learning)
    if "shared" in learning:
        raise Absent("the weight is used elsewhere too, and the layer's rows do not bound that part of its gradient")
    if "bounded" not in learning:
        raise Absent('with several positions per example it is bounded for conv="expand" only')
    bound = math.sqrt(
        learning["input_rows"] / learning["examples"] * float(input.evals[-1]) * float(gradient.evals[-1])
    )
    return learning["grad_sigma_max"] / _require_positive(bound, "the gradient is zero")


@metric(unit="", ref="van Laarhoven, arXiv 1706.05350", over_layers="", fmt=".3f")
def scale_invariance(weight: Spectrum, learning: Learning) -> float:
    """Cosine |⟨∂L/∂W, W⟩| / (‖∂L/∂W‖‖W‖): 0 if normalization after the layer cancels the scale of the weight."""
    norms = _require(learning, "grad_fro", SHARED) * math.sqrt(float(weight.evals.sum()))
    return abs(learning["grad_along_weight"]) / _require_positive(norms, "the gradient is zero")


@metric(unit="", ref=PAPER, over_layers="", fmt="d", label="dying")
def dying(learning: Learning) -> int:
    """Number of units after the layer's ReLU that no example activates: they have no gradient and cannot learn."""
    return int(_require_relu(learning)["dying"])


@metric(unit="", ref=PAPER, over_layers="", fmt="d", label="full")
def full(learning: Learning) -> int:
    """Number of units after the layer's ReLU that every example activates: they are linear and add to the mean."""
    return int(_require_relu(learning)["full"])


@metric(unit="(ℓ/W)²", ref="Karakida, Akaho & Amari, AISTATS 2019 (the dual of the Fisher matrix)", over_layers="")
def lambda_max_exact(fisher: Spectrum) -> float:
    """Largest eigenvalue of the exact Fisher block of the layer, from the gradients of all examples."""
    return float(fisher.evals[-1])


@metric(unit="", ref="Martens & Grosse, ICML 2015", over_layers="", fmt=".2f")
def kfac_ratio(input: Spectrum, gradient: Spectrum, fisher: Spectrum) -> float:
    """λmax of K-FAC's product over λmax of the exact Fisher block: outside 1/3 to 3, do not trust the product."""
    return float(input.evals[-1] * gradient.evals[-1]) / _require_positive(
        float(fisher.evals[-1]), "the gradient is zero"
    )


@metric(unit="", ref="Martens & Grosse, ICML 2015", over_layers="", fmt=".3f")
def kfac_cosine(fisher: Spectrum, learning: Learning) -> float:
    """Cosine between the exact Fisher block F and K-FAC's product S_x ⊗ S_d: 1 if both are proportional."""
    return _require(learning, "kfac_cosine", "the gradient is zero")


@metric(unit="(ℓ/W)²", ref="Karakida, Akaho & Amari, AISTATS 2019", over_layers="")
def sample_floor(fisher: Spectrum, learning: Learning) -> float:
    """Lower bound max ‖gᵢ‖²/N of lambda_max_exact for N examples: a value near it depends on the sample."""
    return learning["sample_floor"]


@metric(unit="", ref=PAPER, over_layers="")
def update_ratio(weight: Spectrum, learning: Learning) -> float:
    """Size of a gradient descent step relative to the weight, lr · σmax(∂L/∂W) / σmax(W).

    Above 0.5, a single step replaces most of the weight.
    """
    return _require(learning, "lr", "no learning rate was given (lr=)") * float(domination(weight, learning))


@metric(unit="W", ref=PAPER, over_layers="")
def weight_sigma_max(weight: Spectrum, learning: Learning) -> float:
    """Largest singular value of W; a convolution is flattened to (out, in·kernel)."""
    return math.sqrt(float(weight.evals[-1]))


@metric(unit="", ref=PAPER, over_layers="", fmt=".2f", label="β < 0")
def beta_negative(learning: Learning) -> float:
    """Share of negative shifts β in the batch norm after the layer: they push units toward inactivity (LS211)."""
    return _require(learning, "beta_negative", "no batch norm with a shift follows the layer")


@metric(unit="", ref=PAPER, over_layers="", fmt=".2f")
def beta_over_gamma(learning: Learning) -> float:
    """Mean of β/|γ| in the batch norm after the layer: the shift of its units in standard deviations."""
    return _require(learning, "beta_over_gamma", "no batch norm with a scale above zero follows the layer")


@metric(unit="", ref=PAPER, over_layers="")
def kappa_nonzero_x(input: Spectrum, learning: Learning) -> float:
    """Condition number of the input covariance S_x over its nonzero eigenvalues."""
    return _require_finite(kronecker.kappa_nonzero(_require_complete(input).evals, learning["input_eps"]), 0)


@metric(unit="", ref=PAPER, over_layers="")
def kappa_nonzero_d(gradient: Spectrum, learning: Learning) -> float:
    """Condition number of the gradient covariance S_d over its nonzero eigenvalues."""
    return _require_finite(kronecker.kappa_nonzero(_require_complete(gradient).evals, learning["gradient_eps"]), 0)


@metric(unit="ℓ/W²", ref="Pearlmutter 1994; Lanczos 1950", over_layers="", label="λmax H")
def curvature_lambda_max(learning: Learning) -> float:
    """Largest eigenvalue of the weight's block of the requested matrix (Hessian, GGN or Fisher)."""
    return _require(learning, "curvature_lambda_max", "not requested (curvature_of), or the weight is not trained")


@metric(unit="ℓ/W²", ref="Hutchinson 1990", over_layers="")
def curvature_trace(learning: Learning) -> float:
    """Trace of the weight's block of the requested matrix (Hessian, GGN or Fisher), estimated by random probes."""
    return _require(learning, "curvature_trace", "not requested (curvature_of), or the weight is not trained")


@metric(unit="ℓ/W²", ref="Hutchinson 1990", over_layers="")
def curvature_trace_error(learning: Learning) -> float:
    """Standard error of curvature_trace."""
    return _require(learning, "curvature_trace_error", "not requested (curvature_of), or the weight is not trained")


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
        raise Absent("no ReLU follows the layer")
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
        factors = (_require_complete(input).evals, _require_complete(gradient).evals)
        value = kronecker.product_kappa(*factors, share, learning["input_eps"], learning["gradient_eps"])
        return _require_finite(value, share)

    return kappa


def _kappa_of_block(share: int) -> Callable[..., float]:
    def kappa(fisher: Spectrum, learning: Learning) -> float:
        eps = max(learning["input_eps"], learning["gradient_eps"])
        return _require_finite(kronecker.kappa(fisher.evals, share, eps, fisher.m), share)

    return kappa


KAPPA_FAMILIES = (
    ("x", "the input covariance S_x", _kappa_of_input),
    ("d", "the gradient covariance S_d", _kappa_of_gradient),
    ("fim", "K-FAC's product S_x ⊗ S_d", _kappa_of_product),
    ("exact", "the exact Fisher block", _kappa_of_block),
)  # fmt: skip


def _declare_kappa_columns() -> None:
    """Register κ of both factors, of their product and of the exact block at each share: sixteen columns."""
    for suffix, matrix, make_metric in KAPPA_FAMILIES:
        for share in KAPPA_SHARES:
            function = make_metric(share)
            function.__name__ = f"kappa_{share}_{suffix}"
            function.__doc__ = (
                f"λmax of {matrix} over the eigenvalue that {share} % of the eigenvalues reach or exceed."
                "\n\n"
                "At 50 % it is λmax over the median eigenvalue, at 100 % the condition number. "
                "Gradient descent needs about κ steps. "
                "It has no value if that eigenvalue is zero, because of too few rows or unused directions."
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
        raise Absent("a grouped convolution has one block per group: read the factors")


_declare_kappa_columns()
