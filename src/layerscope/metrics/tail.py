"""The shape of the upper end of the spectrum: the power law and the evidence for it."""

from __future__ import annotations

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.metrics.references import CLAUSET, HTSR
from layerscope.records.layers import Fit, Measurement
from layerscope.settings import Settings


@metric(unit="", ref=f"{HTSR}; {CLAUSET}, eq. 3.1", fmt=".2f", label="α")
def alpha(power_law: Fit) -> float:
    """Power-law exponent of the tail: 2–6 in well-trained layers, smaller is heavier.

    It depends on the shape of a layer too: untrained ones of 64 rows have a median of 3.6, larger ones more.
    """
    return power_law.params["alpha"]


@metric(unit="", ref=f"{CLAUSET}, §3.3", fmt=".2f", over_layers="")
def alpha_low(power_law: Fit, bootstrap: Fit | None = None) -> float:
    """Lower end of α's interval at ``Settings.confidence``: of the bootstrap where asked for, else by formula."""
    return (bootstrap or power_law).params["alpha_low"]


@metric(unit="", ref=f"{CLAUSET}, §3.3", fmt=".2f", over_layers="")
def alpha_high(power_law: Fit, bootstrap: Fit | None = None) -> float:
    """Upper end of α's interval at ``Settings.confidence``."""
    return (bootstrap or power_law).params["alpha_high"]


@metric(unit="", ref=f"{CLAUSET}, eq. 3.2", fmt=".2f", over_layers="")
def sigma(power_law: Fit) -> float:
    """Standard error (α−1)/√n of α for a known xmin."""
    return power_law.params["sigma"]


@metric(unit="W²", ref=f"{CLAUSET}, §3.3", over_layers="")
def xmin(power_law: Fit) -> float:
    """Where the tail begins."""
    return power_law.params["xmin"]


@metric(unit="W²", ref=CLAUSET, over_layers="")
def xmax(power_law: Fit) -> float:
    """Largest eigenvalue of the fitted tail."""
    return power_law.params["xmax"]


@metric(unit="", ref=f"{CLAUSET}, eq. 3.9", fmt=".3f")
def D(power_law: Fit) -> float:
    """Kolmogorov–Smirnov distance between the tail and the fitted law (empirical step from below)."""
    return power_law.params["ks"]


@metric(unit="", ref=HTSR, over_layers="", fmt="d", label="n tail")
def num_pl_spikes(power_law: Fit) -> int:
    """Eigenvalues from xmin on; those that ``drop_top`` keeps out of the fit are not counted."""
    return int(power_law.params["spikes"])


@metric(unit="", ref="Hill, Ann. Statist. 3 (1975); TempBalance, NeurIPS 2023", fmt=".2f")
def alpha_hill(power_law: Fit) -> float:
    """Hill estimate with the upper half of the spectrum as tail: a second opinion without a choice of xmin."""
    return power_law.params["hill"]


@metric(unit="", ref=HTSR, fmt=".2f", over_layers="")
def raw_alpha(power_law: Fit) -> float:
    """α before fingers were clipped."""
    return power_law.params["raw_alpha"]


@metric(unit="", ref=HTSR, over_layers="", fmt="d")
def num_fingers(power_law: Fit, fingers: Fit | None = None) -> int:
    """Largest eigenvalues that stand apart as fingers: dropped with ``fix_fingers``, otherwise only counted."""
    return int((fingers or power_law).params["fingers"])


@metric(unit="", ref=HTSR, fmt=".2f", over_layers="")
def alpha_clipped(fingers: Fit) -> float:
    """α once the fingers are clipped; α itself where there are none."""
    return fingers.params["alpha"]


@metric(unit="", ref="Hu et al., FARMS, ICML 2025 (arXiv 2506.06280)", fmt=".2f")
def alpha_farms(windows: Measurement) -> float:
    """Hill estimate over windows of one shape, 2:1, from all over the matrix: layers of different Q can be compared."""
    return windows.fits["power_law"].params["hill"]


@metric(unit="", ref=f"{CLAUSET}, §4.1", fmt=".2f", over_layers="")
def p_value(bootstrap: Fit) -> float:
    """Goodness of fit: how often a true power law would fit worse; below 0.1 the law is rejected.

    Of 100 resamples its standard error near 0.1 is 0.03. It judges the tail that the search found: in an exponential
    sample that is a short one, and p is small in half of the cases only; best_fit sees more.
    """
    return bootstrap.params["p"]


@metric(unit="1/W²", ref=f"{CLAUSET}, Table 2.1", over_layers="")
def Lambda(truncated_power_law: Fit) -> float:
    """Cut-off Λ of the truncated power law λ^−α e^−Λλ; near 0 there is none."""
    return truncated_power_law.params["Lambda"]


@metric(unit="", ref=f"{CLAUSET}, Table 2.1", fmt=".2f", over_layers="")
def alpha_tpl(truncated_power_law: Fit) -> float:
    """Exponent α of the truncated power law λ^−α e^−Λλ."""
    return truncated_power_law.params["alpha"]


@metric(unit="", ref="Yang et al., arXiv 2202.02842 (E_TPL_beta)", fmt=".2f")
def alpha_e_tpl(e_tpl: Fit) -> float:
    """Exponent of the truncated power law that begins at the peak of the spectrum's histogram."""
    return e_tpl.params["alpha"]


@metric(unit="1/W²", ref="Yang et al., arXiv 2202.02842 (E_TPL_lambda)", over_layers="")
def Lambda_e_tpl(e_tpl: Fit) -> float:
    """Cut-off Λ of the truncated power law that begins at the peak of the spectrum's histogram."""
    return e_tpl.params["Lambda"]


@metric(unit="1/W²", ref="Yang et al., arXiv 2202.02842 (EXP_lambda)", over_layers="")
def Lambda_exponential(exponential: Fit) -> float:
    """Rate of the exponential tail e^−Λλ above xmin."""
    return exponential.params["rate"]


@metric(unit="", ref=f"{CLAUSET}, §5.1; Vuong 1989", over_layers="", fmt=".1f")
def lr_exponential(exponential: Fit) -> float:
    """Log-likelihood of the power law minus that of an exponential tail; below 0 the exponential is better."""
    return exponential.params["ratio"]


@metric(unit="", ref=f"{CLAUSET}, §5.1; Vuong 1989", over_layers="", fmt=".2f")
def p_exponential(exponential: Fit) -> float:
    """Vuong's p that the sign of lr_exponential is chance."""
    return exponential.params["p"]


@metric(unit="", ref=f"{CLAUSET}, §5.1; Vuong 1989", over_layers="", fmt=".1f")
def lr_lognormal(lognormal: Fit) -> float:
    """Log-likelihood of the power law minus that of a lognormal tail; below 0 the lognormal is better."""
    return lognormal.params["ratio"]


@metric(unit="", ref=f"{CLAUSET}, §5.1; Vuong 1989", over_layers="", fmt=".2f")
def p_lognormal(lognormal: Fit) -> float:
    """Vuong's p that the sign of lr_lognormal is chance."""
    return lognormal.params["p"]


@metric(unit="", ref=f"{CLAUSET}, §5.1; Vuong 1989", over_layers="", fmt="s")
def best_fit(
    settings: Settings,
    power_law: Fit,
    exponential: Fit | None = None,
    lognormal: Fit | None = None,
    truncated_power_law: Fit | None = None,
) -> str:
    """The family that the likelihoods prefer: power_law unless a rival wins, then the likeliest of them.

    A rival wins where its ratio is negative and Vuong's p (for the truncated power law the nested test's) is below
    ``Limits.vuong``.
    """
    rivals = [fit for fit in (exponential, lognormal, truncated_power_law) if fit is not None]
    if not rivals:
        raise Absent("not asked for")
    winners = [fit for fit in rivals if fit.params["ratio"] < 0 and fit.params["p"] < settings.limits.vuong]
    return max(winners, key=lambda fit: fit.params["loglik"]).family if winners else "power_law"
