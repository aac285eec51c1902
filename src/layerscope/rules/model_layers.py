"""The layers of a model as rules see them, with the summaries that every layer is compared with, computed once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from statistics import median
from typing import NamedTuple, overload

from layerscope.records.layers import LayerReport


class Scales(NamedTuple):
    """log10 λmax of corresponding layers."""

    median: float
    deviation: float  # 1.4826 times the median absolute deviation
    layers: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Scales:
        """Summarize the values of at least one layer."""
        middle = median(values)
        return cls(middle, 1.4826 * median(abs(value - middle) for value in values), len(values))


class ModelLayers(Sequence[LayerReport]):
    """All rows of a report. Judging n layers takes time proportional to n, because summaries are cached."""

    def __init__(self, layers: Sequence[LayerReport]) -> None:
        self._layers = tuple(layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self._layers)

    @overload
    def __getitem__(self, index: int) -> LayerReport: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[LayerReport]: ...

    def __getitem__(self, index: int | slice) -> LayerReport | Sequence[LayerReport]:
        return self._layers[index]

    @cached_property
    def median_lambda_max(self) -> tuple[float, int]:
        """Median λmax of the layers that have one, and their number."""
        values = [float(layer.metrics["lambda_max"]) for layer in self if "lambda_max" in layer.metrics]
        return (median(values) if values else 0.0), len(values)

    def corresponding_scales(self, layer: LayerReport) -> Scales:
        """log10 λmax of the layers of the same shape whose names differ only in the numbers between dots."""
        return self._scales_by_slot[_slot(layer)]

    @cached_property
    def _scales_by_slot(self) -> dict[tuple[str, tuple[int, ...]], Scales]:
        values: dict[tuple[str, tuple[int, ...]], list[float]] = {}
        for layer in self:
            if "log_spectral_norm" in layer.metrics:
                values.setdefault(_slot(layer), []).append(float(layer.metrics["log_spectral_norm"]))
        return {slot: Scales.of(scales) for slot, scales in values.items()}


def _slot(layer: LayerReport) -> tuple[str, tuple[int, ...]]:
    """The place of a layer in its block: its name with numbers replaced by "#", and its sizes."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "#", layer.name), tuple(sorted(layer.ref.shape))
