"""The layers of a model as rules see them, with the summaries that every layer is compared with, computed once."""

from __future__ import annotations

import math
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
    def dense_scales(self) -> dict[str, float]:
        """log10 of the mean squared norm of an output's weights, of each dense layer."""
        scales = {layer.name: log_output_norm(layer) for layer in self if layer.ref.kind == "dense"}
        return {name: scale for name, scale in scales.items() if scale is not None}

    @cached_property
    def _scales_by_slot(self) -> dict[tuple[str, tuple[int, ...]], Scales]:
        values: dict[tuple[str, tuple[int, ...]], list[float]] = {}
        for layer in self:
            if "log_spectral_norm" in layer.metrics:
                values.setdefault(_slot(layer), []).append(float(layer.metrics["log_spectral_norm"]))
        return {slot: Scales.of(scales) for slot, scales in values.items()}


def log_output_norm(layer: LayerReport) -> float | None:
    """log10 of the mean squared norm of an output's weights: about 0 after usual initializations, for every shape."""
    outputs, spectrum = layer.parts["weight"].facts.get("output_units", 0.0), layer.spectrum
    total = 0.0 if spectrum is None else float(spectrum.evals.sum())
    return math.log10(total / outputs) if outputs and total > 0 else None


def _slot(layer: LayerReport) -> tuple[str, tuple[int, ...]]:
    """The place of a layer in its block: its name with numbers replaced by "#", and its sizes."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "#", layer.name), tuple(sorted(layer.ref.shape))
