"""All layers of a model stacked in one matrix, each standardized by its median and MAD."""

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
from layerscope.sources.layouts.torch_names import number_layers
from layerscope.sources.opening import open_target
from layerscope.sources.targets import Composed, make_spec, name_of

if TYPE_CHECKING:
    from layerscope.array_types import Array

PLUGIN_NAME, PORTABLE = "stacked", True
NAME = "all layers"


@dataclass(frozen=True)
class Stacked(Composed):
    """The layers of a model, stacked in one matrix."""

    target: Any

    def __str__(self) -> str:
        return f"stacked {name_of(self.target)}"


def accepts(target: Any) -> bool:
    """Return whether the target is a Stacked."""
    return isinstance(target, Stacked)


def open(target: Stacked) -> StackedSource:
    """Open the model."""
    return StackedSource(target, open_target(target.target))


class StackedSource:
    """One row: each layer as (W − median) / MAD, kernel positions side by side, padded with zeros to the widest."""

    def __init__(self, target: Stacked, model: Source) -> None:
        self.spec = make_spec(target, PLUGIN_NAME, portable=True, parts=(model.spec,))
        self.model = model
        refs = list(model.layers())
        self.members = [ref for ref in refs if not ref.skipped]
        if not self.members:
            raise Unreadable(f"{target}: no layer to stack; all {len(refs)} tensors are skipped")
        sizes = [_flat_shape(ref) for ref in self.members]
        self.shape = (sum(rows for rows, _ in sizes), max(columns for _, columns in sizes))
        how = f"{len(self.members)} layers, each as (W − median) / MAD"
        stack = LayerRef(0, NAME, self.shape, "oi", "float64", "stacked", tensor=NAME, how=how)
        members = [replace(ref, skipped=ref.skipped or f"stacked in {NAME!r}") for ref in refs]
        self._layers = number_layers([stack, *members])

    def layers(self) -> Iterator[LayerRef]:
        """Return the stack, then every tensor of the model."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """Return the stack in float64.

        :raises Absent: the median absolute deviation (MAD) of a layer is zero or not finite.
        """
        stack = np.zeros(self.shape)
        start = 0
        for member in self.members:
            try:
                matrices = unfold(self.model.read(member), member).astype(np.float64)
            except Absent as reason:
                raise Absent(f"{member.name}: {reason}") from None
            flat = np.concatenate(list(matrices), axis=1)
            median = float(np.median(flat))
            mad = float(np.median(np.abs(flat - median)))
            if not 0 < mad < math.inf:
                raise Absent(f"{member.name} cannot be standardized: its median absolute deviation is 0 or not finite")
            stack[start : start + len(flat), : flat.shape[1]] = (flat - median) / mad
            start += len(flat)
        return stack


def _flat_shape(ref: LayerRef) -> tuple[int, int]:
    k, n, m = dimensions(ref)
    return n, k * m
