"""What changed between a model and its base: numbers of one pair of tensors (``layerscope diff``)."""

from __future__ import annotations

from collections.abc import Mapping

from layerscope.errors import Absent
from layerscope.metrics import metric
from layerscope.records.layers import LayerRef

DIFF = "layerscope diff"
SHUTTLEWORTH = "Shuttleworth et al., arXiv 2410.21228"


@metric(unit="", ref=DIFF, fmt=".3g", over_layers="", label="change")
def relative_change(change: Mapping[str, float]) -> float:
    """Size of the update relative to the base, ‖W − W₀‖_F/‖W₀‖_F."""
    return _number(change, "relative_change")


@metric(unit="", ref=DIFF, fmt=".3g", over_layers="", label="change σ")
def relative_spectral_change(change: Mapping[str, float]) -> float:
    """Largest singular value of the update relative to that of the base, ‖W − W₀‖₂/‖W₀‖₂."""
    return _number(change, "relative_spectral_change")


@metric(unit="", ref=f"{DIFF}; uniform rounding error, variance h²/12", fmt=".2g", over_layers="", label="floor")
def rounding_floor(change: Mapping[str, float]) -> float:
    """Relative change that rounding alone would make, to the coarser of the two number formats."""
    return _number(change, "rounding_floor")


@metric(unit="", ref=DIFF, fmt="d", over_layers="", label="rank 90")
def rank_90(change: Mapping[str, float]) -> int:
    """Fewest singular values of the update that hold 90 % of ‖W − W₀‖_F²."""
    return int(_number(change, "rank_90"))


@metric(unit="", ref=DIFF, fmt="d", over_layers="", label="rank 95")
def rank_95(change: Mapping[str, float]) -> int:
    """Fewest singular values of the update that hold 95 % of ‖W − W₀‖_F²."""
    return int(_number(change, "rank_95"))


@metric(unit="", ref=DIFF, fmt="d", over_layers="", label="rank 99")
def rank_99(change: Mapping[str, float]) -> int:
    """Fewest singular values of the update that hold 99 % of ‖W − W₀‖_F²."""
    return int(_number(change, "rank_99"))


@metric(unit="", ref=f"{DIFF}; Johnstone, Ann. Statist. 29 (2001)", fmt="d", over_layers="", label="rank >noise")
def rank_above_noise(change: Mapping[str, float]) -> int:
    """Number of singular values of the update above the largest one that rounding noise gives."""
    return int(_number(change, "rank_above"))


@metric(unit="", ref=DIFF, fmt="d", over_layers="", label="exact rank")
def exact_rank(change: Mapping[str, float]) -> int:
    """Rank of the update if nothing but rounding noise is left without its largest directions: a merged LoRA."""
    return int(_number(change, "exact_rank"))


@metric(unit="", ref="PEFT: LoraConfig.r", fmt="d", over_layers="", label="r")
def adapter_rank(change: Mapping[str, float]) -> int:
    """Rank r that the adapter has in this layer."""
    return int(_number(change, "adapter_rank"))


@metric(unit="", ref=f"{DIFF}: ⟨ΔW, s·B·A⟩/‖s·B·A‖²", fmt=".3f", over_layers="", label="merged at")
def merge_scale(change: Mapping[str, float]) -> float:
    """Scale at which the adapter's update is in the model: 1 if it is merged, 0 if it is not."""
    return _number(change, "merge_scale")


@metric(unit="", ref=SHUTTLEWORTH, fmt="d", over_layers="", label="intruders")
def intruders(change: Mapping[str, float]) -> int:
    """How many of the 10 largest left singular vectors of W have a cosine below 0.5 with all of those of W₀.

    LoRA makes such intruder dimensions and full fine-tuning hardly any, as published. Compare with intruder_chance.
    """
    return int(_number(change, "intruders"))


@metric(unit="", ref=SHUTTLEWORTH, fmt=".2f", over_layers="")
def intruder_chance(change: Mapping[str, float]) -> float:
    """Largest |cosine| with the singular vectors of W₀ that an independent vector of this size has."""
    return _number(change, "intruder_chance")


@metric(unit="", ref="Björck & Golub, Math. Comp. 27 (1973)", fmt=".2f", over_layers="", label="overlap out")
def overlap_left(change: Mapping[str, float]) -> float:
    """Overlap of the 10 largest left singular vectors of W and W₀: 1 if they span one space; see overlap_chance."""
    return _number(change, "overlap_left")


@metric(unit="", ref="Björck & Golub, Math. Comp. 27 (1973)", fmt=".2f", over_layers="", label="overlap in")
def overlap_right(change: Mapping[str, float]) -> float:
    """Overlap of the 10 largest right singular vectors of W and W₀: 1 if they span one space; see overlap_chance."""
    return _number(change, "overlap_right")


@metric(unit="", ref="√(k/n) for k random directions of n", fmt=".2f", over_layers="")
def overlap_chance(change: Mapping[str, float]) -> float:
    """Overlap of two independent spaces of 10 dimensions."""
    return _number(change, "overlap_chance")


@metric(unit="", ref=DIFF, fmt="d", over_layers="", label="rows")
def rows_changed(change: Mapping[str, float], ref: LayerRef) -> int:
    """Number of rows of the stored tensor that differ: of an embedding, the tokens that changed."""
    return int(_number(change, "rows_changed"))


@metric(unit="", ref=DIFF, fmt=".3f", over_layers="", label="cosine")
def weight_cosine(change: Mapping[str, float]) -> float:
    """Cosine of W and W₀ as vectors: 1 if they point in one direction, also when W is a multiple of W₀."""
    return _number(change, "weight_cosine")


def _number(change: Mapping[str, float], name: str) -> float:
    if name not in change:
        raise Absent("not measured for this pair of tensors")
    return change[name]
