"""Settings of an analysis: the comment of each field states its meaning, unit and source."""

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
# Settings that the spectra depend on: a saved report keeps them, because changing them needs the weights.
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
    """Thresholds at which a number becomes a verdict, each with its source; "ours" marks those chosen by layerscope."""

    over_trained: float = 2.0  # below this α, the tail is very heavy (Martin & Mahoney, JMLR 22(165), Table 1)
    under_trained: float = 6.0  # above this α, correlations are weak (Martin, Peng & Mahoney, Nat. Commun. 12, 4122)
    verdict_tail: int = 20  # fewest eigenvalues in the tail for a verdict on α
    spurious: float = 20.0  # above this α, the spectrum is flat (orthogonal, identity) and has no tail
    ks_rejected: float = 0.95  # modified KS statistic of a bad fit: its 1 % point with a searched xmin, by simulation
    p_rejected: float = 0.1  # below this goodness-of-fit p, the tail is not a power law (Clauset et al. 2009, §4.1)
    vuong: float = 0.1  # below this p, the likelihood ratio decides between two laws (Clauset et al. 2009, §5.1)
    rank_loss: float = 0.25  # fraction of numerically zero eigenvalues from which a layer has lost rank
    stable_rank: float = 1.1  # ‖W‖_F²/λmax below which one direction dominates the layer (at least 16 eigenvalues)
    dead_outputs: float = 0.05  # share of outputs without any weight, from which they are reported (ours)
    dead_outputs_lost: float = 0.34  # share of outputs without any weight, above which they are an error (ours)
    emptied: float = 1e-6  # λmax, relative to the model's median λmax, below which a layer is almost zero
    vanished: float = 1e-8  # λmax below which no initialization lies: theirs are 0.1 to 10 (ours)
    random_distance: float = 1.5  # rand_distance over that of shuffles, below which a layer looks random (how-sure.md)
    trap_size: float = 0.1  # relative excess of a trap's λ over its edge; smaller traps are not reported
    scale_outlier: float = 1.0  # decades between a layer's λmax and its siblings'; also needs 5 robust deviations
    weak_layers: float = 0.05  # share of layers with α > under_trained (at least 2) for a finding on the model
    norm_growth: float = 0.1  # decades of ‖W‖² in the last third of a run above which weights grow fast (LS117)
    depth_slope: float = 0.15  # decades of λmax per layer above which signals fade or explode (ours: 20-layer MLPs)
    ill_conditioned: float = 1e4  # κ₅₀ of a factor above which half of its directions are hardly learned (ours)
    dead_units: float = 0.1  # share of ReLU units never or always active, above which a layer is reported (ours)
    domination: float = 1e-3  # σmax(∂L/∂W)/σmax(W) below which weights hardly move; healthy: 0.05–1.3 (ours)
    weak_peak: float = 4.0  # peak of the α histogram above which data is too little or poor (Nat. Commun. 12, Fig. 6)


@dataclass(frozen=True)
class Settings:
    """Settings for measuring and judging the layers of a model."""

    min_evals: int = 50  # fewest eigenvalues of a layer for a tail fit
    max_evals: int | None = None  # layers with more eigenvalues are skipped; None: no limit
    min_tail: int = 10  # fewest eigenvalues in a fitted tail
    null_cut: float | None = None  # eigenvalues at or below this count as zero; None: from the precision of the weights
    fits: tuple[str, ...] = BASIC_FITS  # families of distributions fitted to each spectrum
    fix_fingers: str = ""  # isolated large eigenvalues: "clip_xmax" drops them, "xmin_peak" sets xmin near the peak
    max_fingers: int = 10  # most isolated large eigenvalues that "clip_xmax" drops
    finger_thresh: float = 1.0  # decrease of α by which "clip_xmax" recognizes isolated large eigenvalues
    xmin_max: float | None = None  # largest xmin that "xmin_peak" may choose; None: 1.5 times the peak
    drop_top: int = 0  # number of largest eigenvalues to exclude from the tail fit
    conv: str = "slices"  # "slices": one matrix per kernel position, pooled; "flat": one matrix (out, in·kh·kw)
    conv_factor: float = 1.0  # factor on the eigenvalues of convolutions (WeightWatcher: 0.5)
    pool: bool = True  # one spectrum per layer; False: one row per kernel position, group, expert or head
    per_head: bool = False  # split attention projections into one matrix per head, if the number of heads is known
    inverse: bool = False  # analyze the spectrum of (WᵀW)⁻¹: 1/λ of the nonzero eigenvalues
    randomize: bool = False  # compare each layer with shuffles of its own entries
    shuffles: int = 0  # shuffles per layer; 0: five for up to 125 eigenvalues, fewer for more, two from 250 on
    spike_rate: float = 0.01  # chance that a random layer shows a spike beyond the Tracy–Widom edge
    vectors: bool = False  # measure the localization of the eigenvectors
    window: int = 0  # shorter side of 2:1 windows for α at a fixed aspect ratio (FARMS: 100); 0: no windows
    confidence: float = 0.9  # confidence level of intervals
    bootstrap: int = 100  # bootstrap resamples for intervals and p-values
    seed: int = 0  # seed for all random numbers
    max_dim: int = 4096  # for covariances with more rows, only the largest eigenvalue and the trace are measured
    against: str = ""  # file with a table of baselines (layerscope baselines); "": the one that ships with layerscope
    optimizer: str = ""  # optimizer family of the model, if known (sgd, adam, adamw, muon): chooses its usual ranges
    jobs: int = 0  # layers measured in parallel; 0: one per core
    max_cost: float | None = None  # layers that cost more Gflop are skipped; None: no limit
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        try:
            check_types(self)
            check_types(self.limits)
        except TypeError as error:
            raise UsageError(f"settings must have the types of their defaults: {error}") from None
        for name, minimum in MIN_VALUES.items():
            value = getattr(self, name)
            if value < minimum:
                raise UsageError(f"{name}={value!r}: give a whole number of at least {minimum}")
        if not 0.0 < self.confidence < 1.0:
            raise UsageError(f"confidence={self.confidence!r}: give a number above 0 and below 1, e.g. 0.9")
        for name in ("null_cut", "max_cost", "max_evals", "xmin_max"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name}={value!r}: give a number of at least 0, or None")
        if not 0.0 < self.spike_rate <= 0.1:
            raise UsageError(f"spike_rate={self.spike_rate!r}: give a number above 0 and at most 0.1")
        if self.conv not in CONV_MATRICES:
            raise UnknownName("conv setting", self.conv, CONV_MATRICES)
        if self.fix_fingers not in ("", *FINGER_FIXES):
            raise UnknownName("fix_fingers setting", self.fix_fingers, FINGER_FIXES)
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        if self.max_evals is not None and self.max_evals < self.min_evals:
            raise UsageError(f"max_evals={self.max_evals} must not be smaller than min_evals={self.min_evals}")
        if self.xmin_max is not None and self.fix_fingers != "xmin_peak":
            raise UsageError(f'xmin_max={self.xmin_max} works only together with fix_fingers="xmin_peak"')
        if self.inverse and (self.randomize or self.vectors or self.window):
            option = next(name for name in ("randomize", "vectors", "window") if getattr(self, name))
            raise UsageError(
                f"inverse and {option} cannot be combined: inverse analyzes 1/λ, {option} the eigenvalues λ; choose one"
            )

    def check_measured(self, options: Mapping[str, Any]) -> None:
        """Check that a saved report, measured with these settings, can be judged again with other options.

        :raises UsageError: an option needs the weights, or decides which of them are read.
        """
        fixed_names = (*MEASURED, "max_evals", "max_cost", *(("seed",) if self.randomize else ()))
        for name in fixed_names:
            if name in options and options[name] != getattr(self, name):
                raise _needs_weights_error(name, options[name], getattr(self, name))

    def judging(self, measured: Settings) -> Settings:
        """Return these settings for a report measured with others: fields in ``MEASURED`` keep the report's values.

        :raises UsageError: one of those fields differs both from its default and from the report's value.
        """
        default = Settings()
        for name in MEASURED:
            requested, original = getattr(self, name), getattr(measured, name)
            if requested not in (original, getattr(default, name)):
                raise _needs_weights_error(name, requested, original)
        return self.changed(**{name: getattr(measured, name) for name in MEASURED})

    def shuffles_of(self, evals: int) -> int:
        """Return the number of shuffles of a layer; larger layers need fewer, because their shuffles hardly differ.

        :param evals: number of eigenvalues of the layer.
        """
        return self.shuffles or max(2, min(5, -(-500 // max(evals, 1))))

    def changed(self, **options: Any) -> Settings:
        """Return these settings with some fields changed.

        :param options: fields by name; also ``evidence=True`` and ``mp_fit=True``, which add families to ``fits``.
        :raises UnknownName: a setting does not exist.
        """
        _check_names(Settings, options, extra=("evidence", "mp_fit"))
        fits = tuple(options.pop("fits", self.fits))
        if options.pop("evidence", False):
            fits = (*fits, *(name for name in EVIDENCE_FITS if name not in fits))
        if options.pop("mp_fit", False) and "marchenko_pastur" not in fits:
            fits = (*fits, "marchenko_pastur")
        return dataclasses.replace(self, fits=fits, **options)

    def with_evidence(self) -> Settings:
        """Return these settings with the expensive evidence: bootstrap, goodness of fit and likelihood ratios."""
        return self.changed(evidence=True)

    @classmethod
    def weightwatcher(cls, **changes: Any) -> Settings:
        """Return the settings of weightwatcher 0.7.7: min_evals 8, min_tail 2, null_cut 1e-5, conv_factor 0.5."""
        compatible: dict[str, Any] = {"min_evals": 8, "min_tail": 2, "null_cut": 1e-5, "conv_factor": 0.5}
        return cls(**(compatible | changes))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON types."""
        return dataclasses.asdict(self) | {"fits": list(self.fits)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Settings:
        """Build settings from the result of :meth:`to_dict`.

        :raises UnknownName: a key is not a setting.
        """
        values = dict(plain)
        _check_names(cls, values)
        limits = values.pop("limits", {})
        if not isinstance(limits, Mapping):
            raise UsageError(f"settings: limits must be a mapping of names to numbers, not {limits!r:.80}")
        _check_names(Limits, limits)
        if "fits" in values:
            values["fits"] = tuple(values["fits"]) if isinstance(values["fits"], list | tuple) else values["fits"]
        return cls(**values, limits=Limits(**limits))


def _needs_weights_error(name: str, requested: Any, original: Any) -> UsageError:
    return UsageError(
        f"{name}={requested!r} needs the weights, but the saved report was measured with {name}={original!r}; "
        "analyze the model again"
    )


def _check_names(cls: type[Any], values: Mapping[str, Any], extra: tuple[str, ...] = ()) -> None:
    known = [*(f.name for f in dataclasses.fields(cls)), *extra]
    for name in values:
        if name not in known:
            raise UnknownName("setting", name, known)
