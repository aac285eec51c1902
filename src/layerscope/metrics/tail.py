"""The shape of the tail of the spectrum: the power law and the evidence for it."""

from __future__ import annotations

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.metrics.references import CLAUSET, HTSR
from layerscope.records.layers import Fit, Measurement
from layerscope.settings import Settings


@metric(unit="", ref=f"{HTSR}; {CLAUSET}, eq. 3.1", fmt=".2f", label="α")
def alpha(power_law: Fit) -> float:
    """Power-law exponent of the tail: 2 to 6 in well-trained layers; a smaller value is a heavier tail.

    α also depends on the shape of a layer: untrained layers of 64 rows have a median α of 3.6, larger ones a higher
    one.
    """
    return power_law.params["alpha"]


@metric(unit="", ref=f"{CLAUSET}, §3.3", fmt=".2f", over_layers="")
def alpha_low(power_law: Fit, bootstrap: Fit | None = None) -> float:
    """Lower end of the range of α: over all tails that fit nearly as well, and over bootstrap samples if requested."""
    return min(fit.params["alpha_low"] for fit in (power_law, bootstrap) if fit)


@metric(unit="", ref=f"{CLAUSET}, §3.3", fmt=".2f", over_layers="")
def alpha_high(power_law: Fit, bootstrap: Fit | None = None) -> float:
    """Upper end of the range of α: over all tails that fit nearly as well, and over bootstrap samples if requested."""
    return max(fit.params["alpha_high"] for fit in (power_law, bootstrap) if fit)


@metric(unit="", ref=f"{CLAUSET}, eq. 3.2", fmt=".2f", over_layers="")
def sigma(power_law: Fit) -> float:
    """Standard error (α−1)/√n of α for a known xmin and n eigenvalues in the tail."""
    return power_law.params["sigma"]


@metric(unit="W²", ref=f"{CLAUSET}, §3.3", over_layers="")
def xmin(power_law: Fit) -> float:
    """Smallest eigenvalue of the fitted tail: the power law begins here."""
    return power_law.params["xmin"]


@metric(unit="W²", ref=CLAUSET, over_layers="")
def xmax(power_law: Fit) -> float:
    """Largest eigenvalue of the fitted tail."""
    return power_law.params["xmax"]


@metric(unit="", ref=f"{CLAUSET}, eq. 3.9", fmt=".3f")
def D(power_law: Fit) -> float:
    """Kolmogorov–Smirnov distance between the tail and the fitted power law: smaller is a better fit.

    The empirical distribution is taken from below at each step.
    """
    return power_law.params["ks"]


@metric(unit="", ref=HTSR, over_layers="", fmt="d", label="n tail")
def num_pl_spikes(power_law: Fit) -> int:
    """Number of eigenvalues from xmin on, without those that ``drop_top`` excludes from the fit."""
    return int(power_law.params["spikes"])


@metric(unit="", ref="Hill, Ann. Statist. 3 (1975); TempBalance, NeurIPS 2023", fmt=".2f")
def alpha_hill(power_law: Fit) -> float:
    """Hill estimate of α with the upper half of the spectrum as tail.

    It needs no choice of xmin, so it serves as a second opinion on α.
    """
    return power_law.params["hill"]


@metric(unit="", ref=HTSR, fmt=".2f", over_layers="")
def raw_alpha(power_law: Fit) -> float:
    """α before isolated large eigenvalues ("fingers") were removed."""
    return power_law.params["raw_alpha"]


@metric(unit="", ref=HTSR, over_layers="", fmt="d")
def num_fingers(power_law: Fit, fingers: Fit | None = None) -> int:
    """Number of isolated large eigenvalues ("fingers"): removed with ``fix_fingers``, otherwise only counted."""
    return int((fingers or power_law).params["fingers"])


@metric(unit="", ref=HTSR, fmt=".2f", over_layers="")
def alpha_clipped(fingers: Fit) -> float:
    """α without the isolated large eigenvalues ("fingers"); equal to α if there are none."""
    return fingers.params["alpha"]


@metric(unit="", ref="Hu et al., FARMS, ICML 2025 (arXiv 2506.06280)", fmt=".2f")
def alpha_farms(windows: Measurement) -> float:
    """Hill estimate of α over windows of one shape (2:1) from all over the matrix.

    All windows have the same aspect ratio, so layers of different Q can be compared.
    """
    return windows.fits["power_law"].params["hill"]


@metric(unit="", ref="Dinh et al., ICML 2017; Stock et al., ICLR 2019", fmt=".2f", over_layers="", label="α canonical")
def alpha_canonical(canonical: Measurement) -> float:
    """α of the canonical form of the layer, which computes the same function (with ``canonical=True``).

    Batch norms are folded, hidden units are balanced, and WqᵀWk and WoWv replace the projections of attention heads.
    """
    return canonical.fits["power_law"].params["alpha"]


@metric(unit="", ref=f"{CLAUSET}, §4.1", fmt=".2f", over_layers="")
def p_value(bootstrap: Fit) -> float:
    """Goodness of fit: the share of true power laws that would fit worse; below 0.1 the power law is rejected.

    With 100 resamples, its standard error near 0.1 is 0.03. The test judges the tail that the search selected. In an
    exponential sample that tail is short, and p is small in only half of the cases; best_fit detects more.
    """
    return bootstrap.params["p"]


@metric(unit="1/W²", ref=f"{CLAUSET}, Table 2.1", over_layers="")
def Lambda(truncated_power_law: Fit) -> float:
    """Cutoff Λ of the truncated power law λ^−α e^−Λλ; near 0 there is no cutoff."""
    return truncated_power_law.params["Lambda"]


@metric(unit="", ref=f"{CLAUSET}, Table 2.1", fmt=".2f", over_layers="")
def alpha_tpl(truncated_power_law: Fit) -> float:
    """Exponent α of the truncated power law λ^−α e^−Λλ."""
    return truncated_power_law.params["alpha"]


@metric(unit="", ref="Yang et al., arXiv 2202.02842 (E_TPL_beta)", fmt=".2f")
def alpha_e_tpl(e_tpl: Fit) -> float:
    """Exponent of the truncated power law that begins at the peak of the histogram of the spectrum."""
    return e_tpl.params["alpha"]


@metric(unit="1/W²", ref="Yang et al., arXiv 2202.02842 (E_TPL_lambda)", over_layers="")
def Lambda_e_tpl(e_tpl: Fit) -> float:
    """Cutoff Λ of the truncated power law that begins at the peak of the histogram of the spectrum."""
    return e_tpl.params["Lambda"]


@metric(unit="1/W²", ref="Yang et al., arXiv 2202.02842 (EXP_lambda)", over_layers="")
def Lambda_exponential(exponential: Fit) -> float:
    """Rate of the exponential tail e^−Λλ above xmin."""
    return exponential.params["rate"]


@metric(unit="", ref=f"{CLAUSET}, §5.1; Vuong 1989", over_layers="", fmt=".1f")
def lr_exponential(exponential: Fit) -> float:
    """Log-likelihood of the power law minus that of an exponential tail; below 0 the exponential fits better."""
    return exponential.params["ratio"]


@metric(unit="", ref=f"{CLAUSET}, §5.1; Vuong 1989", over_layers="", fmt=".2f")
def p_exponential(exponential: Fit) -> float:
    """p-value of Vuong's test that the sign of lr_exponential is chance."""
    return exponential.params["p"]


@metric(unit="", ref=f"{CLAUSET}, §5.1; Vuong 1989", over_layers="", fmt=".1f")
def lr_lognormal(lognormal: Fit) -> float:
    """Log-likelihood of the power law minus that of a lognormal tail; below 0 the lognormal fits better."""
    return lognormal.params["ratio"]


@metric(unit="", ref=f"{CLAUSET}, §5.1; Vuong 1989", over_layers="", fmt=".2f")
def p_lognormal(lognormal: Fit) -> float:
    """p-value of Vuong's test that the sign of lr_lognormal is chance."""
    return lognormal.params["p"]


@metric(unit="", ref=f"{CLAUSET}, §5.1; Vuong 1989", over_layers="", fmt="s")
def best_fit(
    settings: Settings,
    power_law: Fit,
    exponential: Fit | None = None,
    lognormal: Fit | None = None,
    truncated_power_law: Fit | None = None,
) -> str:
    """The distribution that the likelihood ratios prefer: power_law, unless another one fits significantly better.

    Another distribution is preferred if its log-likelihood ratio is negative and the p-value is below ``Limits.vuong``
    (by Vuong's test; for the truncated power law by the nested test). Of several, the one with the highest likelihood
    is reported.
    """
    rivals = [fit for fit in (exponential, lognormal, truncated_power_law) if fit is not None]
    if not rivals:
        raise Absent("not requested (--evidence)")
    winners = [fit for fit in rivals if fit.params["ratio"] < 0 and fit.params["p"] < settings.limits.vuong]
    return max(winners, key=lambda fit: fit.params["loglik"]).family if winners else "power_law"
