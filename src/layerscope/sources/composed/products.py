"""Products of consecutive layers, W₂W₁, which show correlations that neither layer shows alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.records.layers import LayerRef
from layerscope.records.sources import Source
from layerscope.sources.layouts.torch_names import number_layers
from layerscope.sources.opening import open_target
from layerscope.sources.targets import Composed, make_spec, name_of

if TYPE_CHECKING:
    from layerscope.array_types import Array

PLUGIN_NAME, PORTABLE = "intra", True


@dataclass(frozen=True)
class Intra(Composed):
    """The products of a model's consecutive layers."""

    target: Any

    def __str__(self) -> str:
        return f"products of {name_of(self.target)}"


def accepts(target: Any) -> bool:
    """Return whether the target is an Intra."""
    return isinstance(target, Intra)


def open(target: Intra) -> IntraSource:
    """Open the model and pair its layers."""
    return IntraSource(target, open_target(target.target))


class IntraSource:
    """One row per pair of consecutive dense layers with matching sizes; other pairs are skipped, with the reason."""

    def __init__(self, target: Intra, model: Source) -> None:
        self.spec = make_spec(target, PLUGIN_NAME, portable=True, parts=(model.spec,))
        self.model = model
        analyzed = [ref for ref in model.layers() if not ref.skipped]
        self._pairs: dict[str, tuple[LayerRef, LayerRef]] = {}
        rows = [self._product_row(first, second) for first, second in itertools.pairwise(analyzed)]
        if not self._pairs:
            raise Unreadable(
                f"{target}: no two consecutive layers fit together; "
                "the inputs of a layer must match the outputs of the layer before"
            )
        self._layers = number_layers(rows)

    def layers(self) -> Iterator[LayerRef]:
        """Return every pair of consecutive layers."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """Return W₂W₁ in float64."""
        first, second = self._pairs[ref.name]
        with np.errstate(over="ignore", invalid="ignore"):  # the analysis reports non-finite entries
            product: Array = _read_out_in(self.model, second) @ _read_out_in(self.model, first)
        return product

    def _product_row(self, first: LayerRef, second: LayerRef) -> LayerRef:
        name = f"{second.name} · {first.name}"
        row = LayerRef(0, name, (0, 0), "", "float64", "intra", tensor=name, how="product of two layers")
        for ref in (first, second):
            if set(ref.axes) != {"o", "i"} or ref.groups > 1:
                return replace(row, skipped=f"{ref.name} ({ref.kind}) is not a single matrix")
        (out1, in1), (out2, in2) = _sizes(first), _sizes(second)
        if in2 != out1:
            return replace(row, skipped=f"{first.name} has {out1} outputs, but {second.name} has {in2} inputs")
        self._pairs[name] = (first, second)
        return replace(row, shape=(out2, in1), axes="oi")


def _sizes(ref: LayerRef) -> tuple[int, int]:
    """Return (outputs, inputs); an embedding maps a token to a row."""
    sizes = dict(zip(ref.axes, ref.shape, strict=True))
    return (sizes["i"], sizes["o"]) if ref.kind == "embedding" else (sizes["o"], sizes["i"])


def _read_out_in(model: Source, ref: LayerRef) -> Array:
    matrix = model.read(ref).astype(np.float64)
    return matrix.T if (ref.axes == "io") != (ref.kind == "embedding") else matrix
