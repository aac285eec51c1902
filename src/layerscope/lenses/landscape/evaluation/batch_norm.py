"""Policies for the batch-norm statistics of a model between other models.

"recompute" recomputes them in one pass over the calibration inputs. "batch" normalizes each batch by its own
statistics. "interpolate" interpolates them like weights; negative variances are set to zero and counted. "keep" uses
the statistics of the first model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from layerscope.lenses.landscape.evaluation.cached_first_layers import mix_into
from layerscope.live import torch_models
from layerscope.sources.model_weights import RUNNING_STATISTICS
from layerscope.tensor_names import strip_wrapper_prefixes


class BatchNorms:
    """The batch norms of a model that track running statistics."""

    def __init__(self, model: Any) -> None:
        norms = {name: m for name, m in model.named_modules() if isinstance(m, torch_models.norm_classes())}
        tracked = {name: m for name, m in norms.items() if m.track_running_stats}
        self.tracked = list(tracked.values())
        self.some_untracked = len(tracked) < len(norms)  # untracked norms always use batch statistics
        self.statistic_names = {
            strip_wrapper_prefixes(f"{name}.{statistic}".lstrip("."))
            for name in tracked
            for statistic in RUNNING_STATISTICS
        }

    @contextmanager
    def training(self, momentum: float) -> Iterator[None]:
        """Use batch statistics inside the context; momentum 1 stores them, momentum 0 keeps the running statistics."""
        original = [(norm, norm.momentum) for norm in self.tracked]
        for norm in self.tracked:
            norm.momentum = momentum
            norm.train()
        try:
            yield
        finally:
            for norm, momentum_before in original:
                norm.momentum = momentum_before
                norm.eval()


class BatchNormPolicy:
    """Sets the batch-norm statistics of a model at a point Σ cᵢ·pointsᵢ."""

    def __init__(self, model: Any, policy: str) -> None:
        self.policy = policy
        self.norms = BatchNorms(model)
        self.buffers = {
            strip_wrapper_prefixes(k): v for k, v in model.named_buffers() if v.is_floating_point()
        }  # name → every floating-point buffer of the model

    @property
    def stated(self) -> str:
        """The policy, or "none" if the model has no running statistics."""
        return self.policy if self.norms.tracked else "none"

    @property
    def recomputes(self) -> bool:
        """Whether each point needs a pass over the calibration inputs."""
        return self.policy == "recompute" and bool(self.norms.tracked)

    @property
    def ties_examples(self) -> bool:
        """Whether an example's output depends on the other examples in its batch."""
        return self.policy == "batch" or self.norms.some_untracked

    def recomputing(self) -> AbstractContextManager[None]:
        """Context for the pass over the calibration inputs."""
        return self.norms.training(1.0) if self.policy == "recompute" else nullcontext()

    def evaluating(self) -> AbstractContextManager[None]:
        """Context for a pass over the evaluation data."""
        return self.norms.training(0.0) if self.policy == "batch" else nullcontext()

    def mix(self, points: Sequence[Mapping[str, Any]], coefficients: Sequence[float]) -> int:
        """Set all buffers to the weighted sum of the points' buffers, and return the number of clamped variances."""
        clamped = 0
        for name, buffer in self.buffers.items():
            if not all(name in point for point in points):
                continue
            is_statistic = name in self.norms.statistic_names
            if not is_statistic and all(torch_models.equal(points[0][name], point[name]) for point in points[1:]):
                buffer.copy_(points[0][name])  # exact copy: mixing a mask with −∞ entries would give NaN
                continue
            if is_statistic and self.policy == "keep":
                buffer.copy_(points[0][name])
                continue
            mix_into(buffer, [point[name] for point in points], coefficients)
            if is_statistic and name.endswith(("var", "variance")):
                clamped += int((buffer < 0).sum()) if self.policy == "interpolate" else 0
                buffer.clamp_(min=0.0)
        return clamped

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Restore the buffers when the context ends."""
        original = {name: buffer.clone() for name, buffer in self.buffers.items()}
        try:
            yield
        finally:
            for name, buffer in self.buffers.items():
                buffer.copy_(original[name])
