"""All layers of a model in one matrix, each brought to one scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Absent, Unreadable
from layerscope.numerics.matrices import dimensions, unfold
from layerscope.records.layers import LayerRef
from layerscope.records.sources import Source
from layerscope.sources.layouts.torch_names import number
from layerscope.sources.opening import open_target
from layerscope.sources.targets import Composed, name_of, spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PLUGIN_NAME, PORTABLE = "stacked", True
NAME = "all layers"


@dataclass(frozen=True)
class Stacked(Composed):
    """The layers of a model, one above the other."""

    target: Any

    def __str__(self) -> str:
        return f"stacked {name_of(self.target)}"


def accepts(target: Any) -> bool:
    """A Stacked."""
    return isinstance(target, Stacked)


def open(target: Stacked) -> StackedSource:
    """Open the model."""
    return StackedSource(target, open_target(target.target))


class StackedSource:
    """One row: each layer as (W − median) / MAD, kernel positions side by side, filled up with zeros to the widest."""

    def __init__(self, target: Stacked, model: Source) -> None:
        self.spec = spec(target, PLUGIN_NAME, portable=True, parts=(model.spec,))
        self.model = model
        refs = list(model.layers())
        self.members = [ref for ref in refs if not ref.skipped]
        if not self.members:
            raise Unreadable(f"{target}: no layer to stack")
        sizes = [_size(ref) for ref in self.members]
        self.shape = (sum(rows for rows, _ in sizes), max(columns for _, columns in sizes))
        how = f"{len(self.members)} layers, each less its median over its MAD"
        whole = LayerRef(0, NAME, self.shape, "oi", "float64", "stacked", tensor=NAME, how=how)
        left = [replace(ref, skipped=ref.skipped or f"in {NAME}") for ref in refs]
        self._layers = number([whole, *left])

    def layers(self) -> Iterator[LayerRef]:
        """The whole, then every tensor."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """The stack in float64.

        :raises Absent: the entries of a layer have no spread.
        """
        stack = np.zeros(self.shape)
        at = 0
        for member in self.members:
            try:
                matrices = unfold(self.model.read(member), member).astype(np.float64)
            except Absent as why:
                raise Absent(f"{member.name}: {why}") from None
            flat = np.concatenate(list(matrices), axis=1)
            middle = float(np.median(flat))
            deviation = float(np.median(np.abs(flat - middle)))
            if not 0 < deviation < math.inf:
                raise Absent(f"the entries of {member.name} have no finite spread to bring them to one scale")
            stack[at : at + len(flat), : flat.shape[1]] = (flat - middle) / deviation
            at += len(flat)
        return stack


def _size(ref: LayerRef) -> tuple[int, int]:
    k, n, m = dimensions(ref)
    return n, k * m
