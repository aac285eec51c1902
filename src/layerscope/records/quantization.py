"""The answers of ``layerscope quantize``: what quantization did to every tensor, and a plan of formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from layerscope.records.findings import Finding
from layerscope.records.viewable import Viewable


@dataclass(frozen=True)
class QuantizedTensor:
    """One tensor of a quantized model beside the original."""

    name: str
    role: str  # attention query, MLP up, …
    block: int | None
    shape: tuple[int, ...]
    stored_as: str  # "Q4_K", "int4", "bfloat16"
    bits: float  # per weight
    numbers: Mapping[str, float]  # of numerics.quantization_error; empty if the tensor was not compared
    skipped: str = ""  # why it was not compared
    damage: float | None = None  # predicted divergence of the outputs, nats per prediction
    damage_error: float | None = None  # its standard error over examples
    measured: float | None = None  # the same, measured by running the model with this tensor alone quantized
    measured_error: float | None = None

    @property
    def entries(self) -> int:
        """Number of weights."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, eq=False, repr=False)
class QuantizationAudit(Viewable):
    """A quantized model against its original, tensor by tensor."""

    quantized: str
    base: str
    tensors: tuple[QuantizedTensor, ...]
    findings: tuple[Finding, ...] = ()
    together: Mapping[str, float] = field(default_factory=dict)  # predicted sum; with measuring: all tensors at once
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def compared(self) -> list[QuantizedTensor]:
        """Tensors that both models have."""
        return [tensor for tensor in self.tensors if tensor.numbers]

    @property
    def bits(self) -> float:
        """Mean bits per weight over all compared tensors."""
        entries = sum(tensor.entries for tensor in self.compared)
        return sum(tensor.bits * tensor.entries for tensor in self.compared) / max(1, entries)

    def by_damage(self) -> list[QuantizedTensor]:
        """Return the tensors with a predicted damage, the largest first."""
        return sorted((t for t in self.tensors if t.damage is not None), key=lambda t: -(t.damage or 0.0))

    def html(self, path: Any) -> None:
        """Write the audit as one HTML page."""
        self._write_page(self, path)


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of a plan: the predicted damage of every candidate format, and the chosen one."""

    name: str
    role: str
    block: int | None
    shape: tuple[int, ...]
    damages: Mapping[str, float]  # format → predicted divergence, nats per prediction
    errors: Mapping[str, float]  # format → its standard error
    chosen: str

    @property
    def entries(self) -> int:
        """Number of weights."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class PlanPoint:
    """One assignment of formats to tensors."""

    name: str  # "plan", or the name of a format that every tensor gets
    bits: float  # per weight
    damage: float  # predicted, nats per prediction
    measured: float | None = None  # divergence measured on examples that did not make the plan
    measured_error: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
class QuantizationPlan(Viewable):
    """Formats of all tensors of a model under a budget."""

    model: str
    tensors: tuple[PlannedTensor, ...]
    bits_by_format: Mapping[str, float]
    budget: float  # bits per weight that were allowed
    plan: PlanPoint
    uniform: tuple[PlanPoint, ...]  # every tensor in one format, as far as its rows divide into the format's blocks
    frontier: tuple[PlanPoint, ...]  # the best plans of other budgets
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entries(self) -> int:
        """Number of weights that the plan covers."""
        return sum(tensor.entries for tensor in self.tensors)

    def html(self, path: Any) -> None:
        """Write the plan as one HTML page."""
        self._write_page(self, path)
