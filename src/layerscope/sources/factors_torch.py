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

from layerscope.errors import Absent, Unreadable, UsageError
from layerscope.numerics import fisher
from layerscope.numerics.accumulate import FactorSum
from layerscope.numerics.eigen import eigvalsh
from layerscope.sources import Composed, spec
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
MOST_ROWS = 6000  # examples, times backward passes, of exact spectra
HIDDEN = "inside a module whose products no hook sees"  # MultiheadAttention and fused kernels


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
        self._exact, self._whole = self._exactly(caught) if target.exact else ({}, {})
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
        units = (
            {}
            if entry.ever is None
            else {
                "units": float(len(entry.ever)),
                "dying": float((~entry.ever).sum()),
                "full": float(entry.always.sum()),
            }
        )
        limit = {} if self.limit is None else {"curvature_limit": self.limit}
        return {
            **limit,
            **units,
            **self._exact.get(entry.name, {}),
            **self._whole,
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

    def _exactly(self, caught: list[Caught]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """(λmax of each block without the Kronecker product and how near that comes, λmax and κ of the whole matrix).

        The whole is over the layers that were measured, each called once a batch and in one group.
        """
        found: dict[str, dict[str, float]] = {}
        whole: Any = 0.0
        for entry in caught:
            single = not entry.problem and entry.calls == len(entry.kept_inputs) and len(entry.inputs) == 1
            passes = len(entry.kept_gradients) // max(1, len(entry.kept_inputs))
            batches = sum(map(len, entry.kept_inputs))
            if not single or entry.conv == "channels" or len(entry.kept_gradients) % max(1, len(entry.kept_inputs)):
                continue
            if batches * passes > MOST_ROWS:
                raise UsageError(f"exact spectra of {batches * passes} rows take their square: at most {MOST_ROWS}")
            x = np.concatenate([rows[:, :, 0] for rows in entry.kept_inputs for _ in range(passes)])
            d = np.concatenate([rows[:, :, 0] for rows in entry.kept_gradients])
            if x.shape[:2] != d.shape[:2]:
                continue
            g = fisher.gram(x, d) * (len(x) / self.examples)
            s_x, s_d = (factor[0].cpu().numpy().astype(np.float64) for factor in entry.factors(self.examples))
            quality = fisher.quality(g * (self.examples / len(x)), x, d, s_x, s_d * (self.examples / len(x)))
            found[entry.name] = {
                "lambda_max_exact": float(fisher.spectrum(g)[-1]),
                "kfac_ratio": quality.ratio,
                "kfac_cosine": quality.cosine,
                "sample_floor": quality.floor * len(x) / self.examples,
            }
            whole = whole + g
        if not found:
            return {}, {}
        evals = fisher.spectrum(whole)
        top = {
            "whole_lambda_max": float(evals[-1]),
            "whole_trace": float(evals.sum()),
            "whole_layers": float(len(found)),
        }
        return {k: {n: v for n, v in f.items() if math.isfinite(v)} for k, f in found.items()}, top

    def _rows(self, model: Any) -> Iterator[LayerRef]:
        """A row per tensor: of a measured weight the whole of it, of the others why they are not."""
        seen: set[str] = set()
        for ref in Module(model).layers():
            entry = self._caught.get(ref.tensor)
            if entry is None:
                reason = ref.skipped or f"{ref.kind}: {HIDDEN if ref.axes else 'no matrix of a linear map'}"
                yield replace(ref, name=ref.name, skipped=reason)
            elif ref.tensor not in seen:
                seen.add(ref.tensor)
                out, into = entry.module.weight.flatten(1).shape
                kind = {"linear": "dense", "conv": ref.kind, "conv_transpose": ref.kind}[kind_of(entry.module)]
                skipped = "" if "weight" in ref.tensor and not entry.problem else entry.problem
                yield LayerRef(0, ref.tensor, (out, into), "oi", ref.dtype, kind, tensor=ref.tensor, skipped=skipped,
                               aliases=ref.aliases)  # fmt: skip

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
