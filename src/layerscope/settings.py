"""What a user may choose: each field has its default, its unit and its source beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from layerscope.choices import CONV_MATRICES, FINGER_FIXES
from layerscope.errors import UnknownName, UsageError
from layerscope.validation import check_types

BASIC_FITS = ("power_law", "marchenko_pastur")
EVIDENCE_FITS = (*BASIC_FITS, "exponential", "lognormal", "truncated_power_law", "e_tpl", "fingers", "bootstrap")
# Settings that shape what is read off the matrices: a saved report cannot be judged anew under others.
MEASURED = (
    "conv", "conv_factor", "pool", "per_head", "inverse",
    "randomize", "shuffles", "spike_rate", "vectors", "window", "max_dim",
)  # fmt: skip
MIN_VALUES = {
    "min_evals": 2, "min_tail": 2, "bootstrap": 1, "seed": 0, "jobs": 0, "drop_top": 0, "shuffles": 0, "window": 0,
    "max_fingers": 0, "max_dim": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """Where a number becomes a verdict."""

    over_trained: float = 2.0  # α below: very heavy tail (Martin & Mahoney, JMLR 22(165), Table 1)
    under_trained: float = 6.0  # α above: weak correlations (Martin, Peng & Mahoney, Nat. Commun. 12, 4122)
    verdict_tail: int = 20  # eigenvalues in the tail below which α carries no verdict
    spurious: float = 20.0  # α above: a flat spectrum (orthogonal, identity), not a tail
    ks_rejected: float = 0.95  # modified KS statistic: its 1 % point once xmin is chosen, by simulation
    p_rejected: float = 0.1  # goodness-of-fit p below: not a power law (Clauset et al. 2009, §4.1)
    vuong: float = 0.1  # p below: the likelihood ratio decides (Clauset et al. 2009, §5.1)
    rank_loss: float = 0.25  # fraction of eigenvalues that are numerically zero
    stable_rank: float = 1.1  # ‖W‖_F²/λmax below: one direction holds the layer (at least 16 eigenvalues)
    emptied: float = 1e-6  # λmax relative to the model's median λmax below: weight decay won
    random_distance: float = 1.5  # rand_distance over that between shuffles below: no structure (docs: How sure α is)
    trap_size: float = 0.1  # λ of a trap over its edge − 1 below: too near to speak of
    scale_outlier: float = 1.0  # |log10 λmax − that of its siblings| above, and 5 robust deviations: out of scale
    weak_layers: float = 0.05  # share of layers with α > under_trained, at least two, that speaks about the model
    depth_slope: float = (
        0.15  # |decades of λmax per layer| above: a signal that fades or explodes (ours: MLPs of 20 layers)
    )
    ill_conditioned: float = 1e4  # κ₅₀ of a factor above: half of its directions are hardly learned (ours)
    dead_units: float = 0.1  # share of units behind a ReLU that are never, or always, active above (ours)
    domination: float = 1e-3  # σmax(∂L/∂W)/σmax(W) below: the weight hardly moves; healthy runs have 0.05–1.3 (ours)
    weak_peak: float = 4.0  # peak of the histogram of α above: too little or too poor data (Nat. Commun. 12, Fig. 6)


@dataclass(frozen=True)
class Settings:
    """How to measure and how to judge."""

    min_evals: int = 50  # fewest eigenvalues for a tail fit
    max_evals: int | None = None  # layers with more are skipped and say so; None: no limit
    min_tail: int = 10  # fewest eigenvalues a tail may keep
    null_cut: float | None = None  # absolute eigenvalue cut; None: relative to the weights' precision
    fits: tuple[str, ...] = BASIC_FITS  # families fitted to each spectrum
    fix_fingers: str = ""  # "clip_xmax": drop spurious largest values; "xmin_peak": xmin at the histogram's peak
    max_fingers: int = 10  # at most this many dropped
    finger_thresh: float = 1.0  # fall of α that makes them spurious
    xmin_max: float | None = None  # largest xmin that "xmin_peak" may choose; None: 1.5 times the peak
    drop_top: int = 0  # this many of the largest eigenvalues are kept out of the tail fit
    conv: str = "slices"  # "slices": one matrix per kernel position, pooled; "flat": (out, in·kh·kw)
    conv_factor: float = 1.0  # factor on convolution eigenvalues (WeightWatcher: 0.5)
    pool: bool = True  # one spectrum per layer; False: a row per kernel position, group, expert or head
    per_head: bool = False  # attention projections as one matrix per head, where the source knows the heads
    inverse: bool = False  # the spectrum of (WᵀW)⁻¹: 1/λ of the eigenvalues that are not zero
    randomize: bool = False  # compare with shuffles of each layer's own entries
    shuffles: int = 0  # how many; 0: five for layers of up to 125 eigenvalues, fewer for larger ones, two from 250 on
    spike_rate: float = 0.01  # chance that a random layer shows a spike beyond the Tracy–Widom edge
    vectors: bool = False  # how far the eigenvectors are localised
    window: int = 0  # smaller side of the 2:1 windows for α at fixed aspect ratio (FARMS: 100); 0: none
    confidence: float = 0.9  # level of intervals
    bootstrap: int = 100  # resamples for intervals and p-values
    seed: int = 0  # of every random draw
    max_dim: int = 4096  # sides of a covariance above which only its largest eigenvalue and its trace are measured
    jobs: int = 0  # layers at once; 0: one per core
    max_cost: float | None = None  # Gflop; layers that cost more are skipped and say so
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        try:
            check_types(self)
            check_types(self.limits)
        except TypeError as error:
            raise UsageError(f"settings: {error}") from None
        for name, minimum in MIN_VALUES.items():
            value = getattr(self, name)
            if value < minimum:
                raise UsageError(f"{name} must be a whole number of at least {minimum}, not {value!r}")
        if not 0.0 < self.confidence < 1.0:
            raise UsageError(f"confidence must lie between 0 and 1, not {self.confidence!r}")
        for name in ("null_cut", "max_cost", "max_evals", "xmin_max"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name} must be a number of at least 0, not {value!r}")
        if not 0.0 < self.spike_rate <= 0.1:
            raise UsageError(f"spike_rate must lie above 0 and be at most 0.1, not {self.spike_rate!r}")
        if self.conv not in CONV_MATRICES:
            raise UnknownName("conv setting", self.conv, CONV_MATRICES)
        if self.fix_fingers not in ("", *FINGER_FIXES):
            raise UnknownName("fix_fingers setting", self.fix_fingers, FINGER_FIXES)
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        if self.max_evals is not None and self.max_evals < self.min_evals:
            raise UsageError(f"max_evals = {self.max_evals} is below min_evals = {self.min_evals}: no layer has both")
        if self.xmin_max is not None and self.fix_fingers != "xmin_peak":
            raise UsageError('xmin_max limits fix_fingers = "xmin_peak", which was not asked for')
        if self.inverse and (self.randomize or self.vectors or self.window):
            option = next(name for name in ("randomize", "vectors", "window") if getattr(self, name))
            raise UsageError(f"inverse and {option} contradict each other: one is of 1/λ, the other of λ")

    def check_measured(self, options: Mapping[str, Any]) -> None:
        """Refuse what a saved report, measured with these settings, can no longer be asked for.

        :raises UsageError: an option that needs the weights, or that chooses which of them are read.
        """
        fixed_names = (*MEASURED, "max_evals", "max_cost", *(("seed",) if self.randomize else ()))
        for name in fixed_names:
            if name in options and options[name] != getattr(self, name):
                raise _needs_weights_error(name, options[name], getattr(self, name))

    def judging(self, measured: Settings) -> Settings:
        """These settings for a report that was measured with others: fields in ``MEASURED`` stay what they were.

        :raises UsageError: one of them was asked for, other than by default.
        """
        default = Settings()
        for name in MEASURED:
            requested, original = getattr(self, name), getattr(measured, name)
            if requested not in (original, getattr(default, name)):
                raise _needs_weights_error(name, requested, original)
        return self.changed(**{name: getattr(measured, name) for name in MEASURED})

    def shuffles_of(self, evals: int) -> int:
        """Shuffles of a layer with so many eigenvalues: spectra of large random matrices hardly differ."""
        return self.shuffles or max(2, min(5, -(-500 // max(evals, 1))))

    def changed(self, **options: Any) -> Settings:
        """The same with some fields changed; also ``evidence=True`` and ``mp_fit=True``, which stand for families.

        :raises UnknownName: there is no such setting.
        """
        _check_names(Settings, options, extra=("evidence", "mp_fit"))
        fits = tuple(options.pop("fits", self.fits))
        if options.pop("evidence", False):
            fits = (*fits, *(name for name in EVIDENCE_FITS if name not in fits))
        if options.pop("mp_fit", False) and "marchenko_pastur" not in fits:
            fits = (*fits, "marchenko_pastur")
        return dataclasses.replace(self, fits=fits, **options)

    def with_evidence(self) -> Settings:
        """The same, plus the dear evidence: bootstrap, goodness of fit, likelihood ratios."""
        return self.changed(evidence=True)

    @classmethod
    def weightwatcher(cls, **changes: Any) -> Settings:
        """weightwatcher 0.7.7: min_evals 8, tails of 2, absolute cut 1e-5, conv eigenvalues halved."""
        compatible: dict[str, Any] = {"min_evals": 8, "min_tail": 2, "null_cut": 1e-5, "conv_factor": 0.5}
        return cls(**(compatible | changes))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return dataclasses.asdict(self) | {"fits": list(self.fits)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Settings:
        """The inverse of :meth:`to_dict`; an unknown key is an error."""
        values = dict(plain)
        _check_names(cls, values)
        limits = values.pop("limits", {})
        if not isinstance(limits, Mapping):
            raise UsageError(f"settings: limits cannot be {limits!r:.80}")
        _check_names(Limits, limits)
        if "fits" in values:
            values["fits"] = tuple(values["fits"]) if isinstance(values["fits"], list | tuple) else values["fits"]
        return cls(**values, limits=Limits(**limits))


def _needs_weights_error(name: str, requested: Any, original: Any) -> UsageError:
    return UsageError(f"{name} = {requested!r} needs the weights: the report was measured with {original!r}")


def _check_names(cls: type[Any], values: Mapping[str, Any], extra: tuple[str, ...] = ()) -> None:
    known = [*(f.name for f in dataclasses.fields(cls)), *extra]
    for name in values:
        if name not in known:
            raise UnknownName("setting", name, known)
