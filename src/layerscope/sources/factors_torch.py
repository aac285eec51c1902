"""What each layer of a live PyTorch model learns from: its weight, and the second moments of what comes in and back.

A layer has three matrices: ``weight`` (W, flattened to (out, in·kernel)), ``input`` (S_x) and ``gradient`` (S_d), the
Kronecker factors of its block of the Fisher matrix. They are caught when the target is opened, while batches run
through the model, and only the sums are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Absent, Unreadable
from layerscope.numerics.accumulate import FactorSum
from layerscope.numerics.eigen import eigvalsh
from layerscope.sources import Composed, spec
from layerscope.sources._blocks import exact_blocks
from layerscope.sources._capture import Caught, capture
from layerscope.sources._layout import number
from layerscope.sources._losses import Loss
from layerscope.sources._rows import kind_of
from layerscope.sources._torch_tensor import to_numpy
from layerscope.sources.torch_module import Module
from layerscope.types import LayerRef

if TYPE_CHECKING:
    from layerscope.types import Array

PORTABLE = False
HIDDEN = "no weight of a Linear or a convolution whose products a hook sees"  # MultiheadAttention, embeddings
COMPUTED = "a parametrised weight: computed anew whenever it is used"


@dataclass(frozen=True, eq=False)
class Factors(Composed):
    """A model, the data that run through it, and how its Fisher matrix is meant."""

    model: Any
    batches: Iterable[Any]
    loss: Loss
    fisher: str = "empirical"
    conv: str = "expand"
    bias: bool = False
    seed: int = 0
    forward: Callable[[Any, Any], Any] | None = None
    limit: float | None = None  # the curvature that the learning rate can follow
    exact: bool = False  # exact spectra of the blocks too, from the rows of all examples

    def __str__(self) -> str:
        return f"{type(self.model).__module__}.{type(self.model).__qualname__}"


def accepts(target: Any) -> bool:
    """A Factors."""
    return isinstance(target, Factors)


def open(target: Factors) -> FactorsSource:
    """Run the batches through the model and keep the factors.

    :raises Unreadable: no torch module, or the model or the data raise on the way.
    """
    from torch import nn

    if not isinstance(target.model, nn.Module):
        raise Unreadable(f"a {type(target.model).__name__} is no torch module")
    return FactorsSource(target)


class FactorsSource:
    """Layers that could be measured, each in three roles; every other tensor with the reason why not."""

    def __init__(self, target: Factors) -> None:
        options = {name: getattr(target, name) for name in ("fisher", "conv", "bias", "seed", "forward")}
        caught, self.examples, total = capture(target.model, target.batches, target.loss, keep=target.exact, **options)
        self.loss, self.limit = total / self.examples, target.limit
        self.chance = target.loss.kind == "cross_entropy"
        self._caught = {entry.name: entry for entry in caught}
        self._exact = exact_blocks(caught, self.examples) if target.exact else {}
        if not caught:
            raise Unreadable(f"{target}: no linear or convolutional layer to measure")
        self.spec = spec(target, "factors_torch", portable=False)
        self._layers = [ref for row in number(self._rows(target.model)) for ref in self._roles(row)]

    def layers(self) -> Iterator[LayerRef]:
        """Every tensor, in the order of modules; of a measured weight its three roles."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """W as (out, in·kernel), or a factor as (groups, d, d).

        :raises Absent: the factor could not be measured.
        """
        entry = self._caught[ref.tensor]
        if ref.role == "weight":
            return to_numpy(entry.module.weight.detach().flatten(1))
        if entry.problem:
            raise Absent(entry.problem, failed="not finite" in entry.problem)
        factor: Array = entry.factors(self.examples)[ref.role == "gradient"].cpu().numpy()
        return factor

    def facts(self, ref: LayerRef) -> Mapping[str, float]:
        """Numbers that no spectrum holds: counts, energies, and how W and its gradient stand to each other."""
        entry = self._caught.get(ref.tensor)
        if entry is None or entry.problem or ref.role == "base":
            return {}
        if ref.role == "weight":
            return self._of_weight(entry)
        sums = entry.inputs if ref.role == "input" else entry.gradients
        precision = float(np.finfo(_name(sums[0])).eps)
        if ref.role == "gradient":
            return {"gradient_eps": precision, "gradient_rows": float(sums[0].rows)}
        energy = max(total.mean_energy() for total in sums)
        return {"input_eps": precision, "input_rows": float(sums[0].rows), "mean_energy": energy}

    def _of_weight(self, entry: Caught) -> Mapping[str, float]:
        weight = to_numpy(entry.module.weight.detach().flatten(1)).astype(np.float64)
        gradient = to_numpy(entry.weight_gradient).astype(np.float64) / self.examples
        units: dict[str, float] = {}
        if entry.ever is not None:
            dying, full = float((~entry.ever).sum()), float(entry.always.sum())
            units = {"units": float(len(entry.ever)), "dying": dying, "full": full}
        limit = {} if self.limit is None else {"curvature_limit": self.limit}
        return {
            **limit,
            **units,
            **self._exact.get(entry.name, {}),
            **({"outputs": float(entry.outputs)} if self.chance else {}),
            "examples": float(self.examples),
            "positions": float(entry.positions),
            "calls": float(entry.calls),
            "loss": self.loss,
            "groups": float(len(entry.inputs)),
            "grad_sigma_max": _largest_singular(gradient),
            "grad_fro": float(np.linalg.norm(gradient)),
            "grad_along_weight": float((gradient * weight).sum()),
        }

    def _rows(self, model: Any) -> Iterator[LayerRef]:
        """A row per tensor: of a measured weight the whole of it, of the others why they are not."""
        seen: set[str] = set()
        for ref in Module(model).layers():
            entry = self._caught.get(ref.tensor)
            if entry is None:
                yield replace(ref, skipped=ref.skipped or (COMPUTED if "parametri" in ref.how else HIDDEN))
            elif ref.tensor not in seen:
                seen.add(ref.tensor)
                out, into = entry.module.weight.flatten(1).shape
                kind = "dense" if kind_of(entry.module) == "linear" else ref.kind
                yield LayerRef(0, ref.tensor, (out, into), "oi", ref.dtype, kind, tensor=ref.tensor,
                               skipped=entry.problem, aliases=ref.aliases)  # fmt: skip

    def _roles(self, row: LayerRef) -> Iterator[LayerRef]:
        yield row
        entry = self._caught.get(row.tensor)
        if row.skipped or entry is None:
            return
        for role, sums in (("input", entry.inputs), ("gradient", entry.gradients)):
            d, groups = len(sums[0].second), len(sums)
            yield replace(
                row,
                shape=(groups, d, d),
                axes="eoi",
                role=role,
                symmetric=True,
                dtype=_name(sums[0]),
                kind="covariance",
            )


def _largest_singular(matrix: Array) -> float:
    """σmax, from the eigenvalues of the smaller Gram matrix."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return math.sqrt(max(0.0, float(eigvalsh((wide @ wide.T)[None])[0, -1])))


def _name(total: FactorSum) -> str:
    return str(total.second.dtype).removeprefix("torch.")
