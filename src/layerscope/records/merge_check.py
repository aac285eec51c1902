"""The answer of ``layerscope merge-check``: how the updates of several fine-tuned models relate to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from layerscope.records.comparison import Matrix
from layerscope.records.findings import Finding
from layerscope.records.viewable import Viewable


@dataclass(frozen=True)
class TaskVectors:
    """The task vectors Δᵢ = Wᵢ − W₀ of P models, over the whole model, one block or one tensor."""

    name: str  # "model", "block 3" or the name of a tensor
    norms: tuple[float, ...]  # ‖Δᵢ‖_F, unit of W
    relative: tuple[float, ...]  # ‖Δᵢ‖_F/‖W₀‖_F
    cosines: Matrix  # (P, P); None where a task vector is zero
    conflicts: float | None  # share of the entries changed by several models whose signs differ; None if there are none
    interference: float | None  # ‖Σ wᵢΔᵢ‖/Σ wᵢ‖Δᵢ‖: 1 if all point in one direction, 1/√P if they are orthogonal
    overlap: float | None = None  # of a tensor: mean overlap of the 10 largest left and right singular vectors of pairs
    overlap_chance: float | None = None  # the same for random directions


@dataclass(frozen=True, eq=False, repr=False)
class MergeCheck(Viewable):
    """Whether fine-tuned models of one base can be merged, as far as their weights and, if given, data tell."""

    base: str
    names: tuple[str, ...]  # short, distinct names of the models
    whole: TaskVectors
    blocks: tuple[TaskVectors, ...]  # by block, in the order of the model
    tensors: tuple[TaskVectors, ...]  # of every tensor that a model changed
    compared: int  # tensors that all models and the base have
    unfit: tuple[str, ...]  # what does not fit: names, shapes, vocabularies
    findings: tuple[Finding, ...]
    losses: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # with data: metrics of each model, "mean"
    meta: Mapping[str, Any] = field(default_factory=dict)
