"""Source for the learning lens: weight, input covariance and gradient covariance of each layer of a live PyTorch model.

Each layer has three matrices: ``weight`` (W, flattened to (out, in·kernel)), ``input`` (S_x) and ``gradient`` (S_d).
S_x and S_d are the Kronecker factors of the layer's Fisher block. Opening the target runs all batches through the model
and records the sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Absent, Unreadable
from layerscope.lenses.learning_statistics.capture import capture
from layerscope.lenses.learning_statistics.fisher_blocks import FisherBlocks
from layerscope.lenses.learning_statistics.kfac_hooks import LayerStatistics
from layerscope.lenses.learning_statistics.layer_rows import kind_of
from layerscope.lenses.learning_statistics.weights import is_computed, weight_of
from layerscope.live.losses import Loss
from layerscope.numerics.lapack_eigenvalues import eigvalsh
from layerscope.numerics.second_moments import FactorSum
from layerscope.records.layers import LayerRef
from layerscope.sources.layouts.layer_order import in_model_order
from layerscope.sources.layouts.torch_names import number_layers
from layerscope.sources.readers.torch_module import Module
from layerscope.sources.readers.torch_tensor import to_numpy
from layerscope.sources.targets import Composed, make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = False
HIDDEN = "not a weight of a linear or convolution layer that hooks can observe"  # MultiheadAttention, embeddings
COMPUTED = "a parametrized weight, recomputed on every use"


@dataclass(frozen=True, eq=False)
class Factors(Composed):
    """A target: a model, its data and loss, and the kind of Fisher matrix to measure."""

    model: Any
    batches: Iterable[Any]
    loss: Loss
    fisher: str = "empirical"
    conv: str = "expand"
    bias: bool = False
    seed: int = 0
    forward: Callable[[Any, Any], Any] | None = None
    exact: bool = False  # also compute exact spectra of the Fisher blocks, from the rows of all examples
    all_reduce: bool = False  # sum over all processes of torch.distributed
    only: frozenset[str] | None = None  # names of the weights to measure; None for all
    training_facts: Mapping[str, float] = field(default_factory=dict)  # facts about the optimizer, added to every layer
    known_facts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # facts by layer, measured elsewhere
    whole: dict[str, Any] = field(default_factory=dict)  # results for all layers together; filled in by open()

    def __str__(self) -> str:
        return f"{type(self.model).__module__}.{type(self.model).__qualname__}"


def accepts(target: Any) -> bool:
    """Return whether the target is a ``Factors``."""
    return isinstance(target, Factors)


def open(target: Factors) -> FactorsSource:
    """Run the batches through the model and record the factors of each layer.

    :raises Unreadable: the model is not a torch module, or the model or the data raise an exception.
    """
    from torch import nn

    if not isinstance(target.model, nn.Module):
        raise Unreadable(f"the model is a {type(target.model).__name__}, not a torch.nn.Module")
    return FactorsSource(target)


class FactorsSource:
    """The measured layers, each in three roles, and every other tensor with the reason why it was skipped."""

    def __init__(self, target: Factors) -> None:
        options = {name: getattr(target, name) for name in ("fisher", "conv", "bias", "seed", "forward")}
        options |= {"keep_rows": target.exact, "all_reduce": target.all_reduce, "only": target.only}
        statistics, self.examples, total = capture(target.model, target.batches, target.loss, **options)
        self.loss, self._training_facts = total / self.examples, target.training_facts
        self._is_classifier = target.loss.kind == "cross_entropy"
        self._statistics = {entry.name: entry for entry in statistics}
        self._blocks = FisherBlocks(statistics if target.exact else (), self.examples)
        self._known_facts = target.known_facts
        target.whole.update(self._blocks.whole(), examples=self.examples)
        if math.isfinite(self.loss):
            target.whole["loss"] = self.loss
        if not statistics:
            raise Unreadable(f"{target}: no linear or convolutional layer to measure")
        self.spec = make_spec(target, "factors_torch", portable=False)
        rows = number_layers(in_model_order(self._layer_rows(target.model)))
        self._layers = [ref for row in rows for ref in self._role_rows(row)]

    def layers(self) -> Iterator[LayerRef]:
        """Iterate over all tensors in the order of modules; a measured weight appears in its three roles."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """Return W as (out, in·kernel), or a factor as (groups, d, d).

        :raises Absent: the factor was not measured.
        """
        entry = self._statistics[ref.tensor]
        if ref.role == "weight":
            return to_numpy(weight_of(entry.module).flatten(1))
        if entry.problem:
            raise Absent(entry.problem, failed="not finite" in entry.problem)
        if ref.role == "fisher":
            return self._blocks.gram(ref.tensor)
        factor: Array = entry.factors(self.examples)[ref.role == "gradient"].cpu().numpy()
        return factor

    def facts(self, ref: LayerRef) -> Mapping[str, float]:
        """Return numbers that are not part of a spectrum: counts, energies, and relations of W to its gradient."""
        entry = self._statistics.get(ref.tensor)
        if entry is None or entry.problem or ref.role == "base":
            return {}
        if ref.role == "weight":
            return self._weight_facts(entry)
        if ref.role == "fisher":
            return self._blocks.facts(ref.tensor)
        sums = entry.inputs if ref.role == "input" else entry.gradients
        precision, scale = (
            float(np.finfo(_dtype_name(sums[0])).eps),
            self.examples if ref.role == "gradient" else sums[0].rows,
        )
        trace = sum(float(total.second.diagonal().sum()) for total in sums) / scale
        numbers = {"eps": precision, "rows": float(sums[0].rows), "trace": trace}
        facts = {f"{ref.role}_{name}": value for name, value in numbers.items()}
        if ref.role == "gradient":
            return facts
        return {**facts, "mean_energy": max(total.mean_energy() for total in sums)}

    def _weight_facts(self, entry: LayerStatistics) -> Mapping[str, float]:
        weight = to_numpy(weight_of(entry.module).flatten(1)).astype(np.float64)
        gradient = to_numpy(entry.weight_gradient).astype(np.float64) / self.examples
        units: dict[str, float] = {}
        if entry.ever_active is not None:
            dying, full = float((~entry.ever_active).sum()), float(entry.always_active.sum())
            units = {"units": float(len(entry.ever_active)), "dying": dying, "full": full}
        facts = {
            **self._training_facts,
            **units,
            **({"bounded": 1.0} if entry.conv == "expand" or entry.positions == entry.calls else {}),
            **({"shared": 1.0} if entry.is_shared else {}),
            **_group_facts(entry, self.examples),
            **_norm_facts(entry.norm),
            **self._known_facts.get(entry.name, {}),
            **({"outputs": float(entry.outputs)} if self._is_classifier else {}),
            "examples": float(self.examples),
            "positions": float(entry.positions),
            "calls": float(entry.calls),
            "batches": float(len(entry.batches)),
            "final": float(entry.is_final),
            "loss": self.loss,
            "groups": float(len(entry.inputs)),
        }
        if not (entry.is_shared and is_computed(entry.module)):
            facts["grad_sigma_max"] = _largest_singular(gradient)
            facts["grad_fro"] = float(np.linalg.norm(gradient))
            facts["grad_along_weight"] = float((gradient * weight).sum())
        return {name: value for name, value in facts.items() if math.isfinite(value)}

    def _layer_rows(self, model: Any) -> Iterator[LayerRef]:
        """Yield a row per tensor; a tensor that was not measured carries the reason."""
        listed: set[str] = set()
        for ref in Module(model).layers():
            entry = self._statistics.get(ref.tensor)
            if entry is None:
                yield replace(ref, skipped=ref.skipped or (COMPUTED if "parametri" in ref.how else HIDDEN))
            elif ref.tensor not in listed:
                listed.add(ref.tensor)
                outputs, inputs = weight_of(entry.module).flatten(1).shape
                kind = "dense" if kind_of(entry.module) == "linear" else ref.kind
                yield LayerRef(0, ref.tensor, (outputs, inputs), "oi", ref.dtype, kind, tensor=ref.tensor,
                               skipped=entry.problem, aliases=ref.aliases)  # fmt: skip

    def _role_rows(self, row: LayerRef) -> Iterator[LayerRef]:
        yield row
        entry = self._statistics.get(row.tensor)
        if row.skipped or entry is None:
            return
        for role, sums in (("input", entry.inputs), ("gradient", entry.gradients)):
            d, groups = len(sums[0].second), len(sums)
            shape: dict[str, Any] = {
                "shape": (groups, d, d),
                "axes": "eoi",
                "dtype": _dtype_name(sums[0]),
                "kind": "covariance",
            }
            yield replace(row, role=role, symmetric=True, **shape)
        if row.tensor in self._blocks:
            d, rank = len(entry.inputs[0].second) * len(entry.gradients[0].second), self._blocks.rows(row.tensor)
            shape = {"shape": (d, d), "axes": "oi", "dtype": "float64"}
            yield replace(row, role="fisher", symmetric=True, rank=rank, kind="covariance", **shape)


def _group_facts(entry: LayerStatistics, examples: int) -> dict[str, float]:
    """Return the largest λmax and the total trace over the blocks of a grouped convolution, one block per group."""
    if len(entry.inputs) < 2:
        return {}
    s_x, s_d = (factor.cpu().numpy().astype(np.float64) for factor in entry.factors(examples))
    tops = np.linalg.eigvalsh(s_x)[:, -1] * np.linalg.eigvalsh(s_d)[:, -1]
    traces = np.trace(s_x, axis1=1, axis2=2) * np.trace(s_d, axis1=1, axis2=2)
    return {"groups_lambda_max": float(tops.max()), "groups_trace": float(traces.sum())}


def _norm_facts(norm: Any) -> dict[str, float]:
    """Return facts about the batch norm after the layer: its mode, and the sign and size of its shifts β."""
    if norm is None:
        return {}
    facts = {"norm_training": float(norm.training)}
    if norm.affine:
        beta, gamma = (to_numpy(p.detach()).astype(np.float64) for p in (norm.bias, norm.weight))
        facts["beta_negative"] = float((beta < 0).mean())
        if (gamma != 0).all():
            facts["beta_over_gamma"] = float((beta / np.abs(gamma)).mean())
    return facts


def _largest_singular(matrix: Array) -> float:
    """Return σmax, from the eigenvalues of the smaller Gram matrix."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return math.sqrt(max(0.0, float(eigvalsh((wide @ wide.T)[None])[0, -1])))


def _dtype_name(total: FactorSum) -> str:
    return str(total.second.dtype).removeprefix("torch.")
