"""REPAIR for layers without batch norm: restore the variance that units lose when weights are averaged.

Layer by layer, each unit is scaled and shifted so that its mean over the calibration inputs is Σ cᵢμᵢ and its standard
deviation is Σ cᵢσᵢ, where i runs over the averaged models. Source: Jordan et al., ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from layerscope.errors import UsageError
from layerscope.live import torch_models

Run = Callable[[Any], Any]  # runs the model on a batch of inputs
MIN_RELATIVE_SPREAD = 1e-12  # relative to the target; units with less spread are constant and not rescaled


class Repair:
    """Corrects layers so that each unit has the interpolated mean and standard deviation of the end models."""

    def __init__(self, model: Any, run: Run, x: Any) -> None:
        """Find the layers to correct.

        :param model: the model.
        :param run: function that runs the model on inputs.
        :param x: a small batch of inputs.
        :raises UsageError: if REPAIR applies to no layer.
        """
        import torch

        with torch.no_grad():
            self.layers = _repairable_layers(model, run, x)
        if not self.layers:
            raise UsageError(
                "repair=True: no linear layer or convolution qualifies; REPAIR skips the last one and those before a "
                "batch norm, so use repair=False"
            )
        self._ends: list[dict[Any, tuple[Any, Any]]] = []  # for each point, layer → (means, standard deviations)
        self._corrections: dict[Any, tuple[Any, Any]] = {}  # layer → (scale, shift)
        self._coefficients: Sequence[float] | None = None  # set while corrections are fitted

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Apply the corrections to the layers inside the context."""
        handles = [layer.register_forward_hook(self._correct) for layer in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._ends, self._corrections, self._coefficients = [], {}, None

    def measure(self, run: Run, x: Any) -> None:
        """Measure the unit statistics at the model's current weights, as those of the next end model."""
        moments: dict[Any, tuple[Any, Any]] = {}
        handles = [
            layer.register_forward_hook(lambda layer, _, out: moments.update({layer: _moments(layer, out)}))
            for layer in self.layers
        ]
        self._corrections, self._coefficients = {}, None
        try:
            run(x)
        finally:
            for handle in handles:
                handle.remove()
        self._ends.append(moments)

    @contextmanager
    def fitting(self, coefficients: Sequence[float]) -> Iterator[None]:
        """Fit the correction of each layer in the next forward pass; the end models need none."""
        is_end = 1.0 in coefficients and sum(c != 0.0 for c in coefficients) == 1
        self._corrections = {}
        self._coefficients = None if is_end else coefficients
        try:
            yield
        finally:
            self._coefficients = None

    def _correct(self, layer: Any, _: Any, out: Any) -> Any:
        if self._coefficients is not None:
            self._corrections[layer] = self._fit_correction(layer, out, self._coefficients)
        if layer not in self._corrections:
            return out
        scale, shift = (_along_units(layer, part, out) for part in self._corrections[layer])
        return out * scale + shift

    def _fit_correction(self, layer: Any, out: Any, coefficients: Sequence[float]) -> tuple[Any, Any]:
        mean, spread = _moments(layer, out)
        end_moments = zip(*(end[layer] for end in self._ends), strict=True)
        target_mean, target_spread = (
            sum(c * part for c, part in zip(coefficients, parts, strict=True)) for parts in end_moments
        )
        is_varying = spread > MIN_RELATIVE_SPREAD * target_spread.abs()
        scale = (target_spread.clamp(min=0.0) / spread).where(is_varying, spread.new_ones(()))
        return scale, target_mean - scale * mean


def _repairable_layers(model: Any, run: Run, x: Any) -> list[Any]:
    """Find linear layers and convolutions that are called once, except the last one and those before a batch norm."""
    from torch import nn

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    norms = torch_models.norm_classes()
    outputs: dict[Any, list[tuple[int, int]]] = {}  # module → (id, version) of the output tensor of each call
    normalized: set[tuple[int, int]] = set()
    alive: list[Any] = []  # kept alive, because Python reuses the ids of deleted tensors

    def record(module: Any, arguments: Any, out: Any) -> None:
        if isinstance(module, norms):
            normalized.update((id(tensor), tensor._version) for tensor in arguments)
        else:
            outputs.setdefault(module, []).append((id(out), out._version))
        alive.extend((*arguments, out))

    handles = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, (*kinds, norms))]
    try:
        run(x)
    finally:
        for handle in handles:
            handle.remove()
    called_once = {module: calls[0] for module, calls in outputs.items() if len(calls) == 1}
    return [module for module, out in list(called_once.items())[:-1] if out not in normalized]


def _unit_axis(layer: Any) -> int:
    from torch import nn

    return -1 if isinstance(layer, nn.Linear) else 1


def _moments(layer: Any, out: Any) -> tuple[Any, Any]:
    """Return (means, standard deviations) of the units."""
    axis = _unit_axis(layer)
    rows = out.movedim(axis, -1).reshape(-1, out.shape[axis])
    return rows.mean(0), rows.std(0, correction=0)


def _along_units(layer: Any, values: Any, out: Any) -> Any:
    """Reshape one value per unit so that it broadcasts over a layer's output."""
    shape = [1] * out.dim()
    shape[_unit_axis(layer)] = -1
    return values.reshape(shape)
