"""Finds units that are never or always active after a ReLU, for ReLU modules and functions, in place or not."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from layerscope.lenses.learning_statistics.kfac_hooks import CaptureState, LayerStatistics, Phase
from layerscope.lenses.learning_statistics.layer_rows import kind_of


def count_active_units(state: CaptureState) -> AbstractContextManager[Any]:
    """Context manager that counts the outputs of each ReLU for the layer that the units belong to.

    A unit is a feature of a linear layer or a channel of a convolution, and is inactive if it is exactly zero.
    Functions between the layer and the ReLU that keep the shape (a norm, a residual sum) keep the units. The units of a
    sum belong to the layer that was called last.
    """
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    relus = {functional.relu, functional.relu_, functional.relu6, torch.relu, torch.relu_, torch.Tensor.relu,
             torch.Tensor.relu_}  # fmt: skip

    class ReluCounter(TorchFunctionMode):  # type: ignore[misc]
        """Counts active units in the outputs of ReLUs, and tracks units through other functions."""

        inside = False  # functional.relu calls torch.relu

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            is_outer_relu = func in relus and not self.inside
            layer = _layer_of_units(args, state) if Phase.FORWARD in state.phase else None
            self.inside = self.inside or is_outer_relu
            try:
                output = func(*args, **(kwargs or {}))
            finally:
                self.inside = self.inside and not is_outer_relu
            if layer is None or not isinstance(output, torch.Tensor):
                return output
            if is_outer_relu:
                _count_activity(layer, output.detach())
                state.layer_by_tensor.pop(id(output), None)  # units after the ReLU count as new ones
            elif not self.inside and output.shape == args[0].shape:
                state.assign_units(output, layer)
            return output

    return ReluCounter()


def _layer_of_units(args: Any, state: CaptureState) -> LayerStatistics | None:
    """Return the layer that the units of the arguments belong to; of several, the one that was called last."""
    layers = [state.layer_by_tensor[id(argument)] for argument in args if id(argument) in state.layer_by_tensor]
    if len(layers) < 2:
        return layers[0] if layers else None
    order = [id(layer) for layer, _, _ in state.calls]
    return max(layers, key=lambda layer: order.index(id(layer)) if id(layer) in order else -1)


def _count_activity(layer: LayerStatistics, output: Any) -> None:
    axis = output.dim() - 1 if kind_of(layer.module) == "linear" else 1
    if output.dim() < 2 or output.shape[axis] != layer.units:
        return
    active = output.movedim(axis, -1).reshape(-1, layer.units) > 0
    ever, always = active.any(0), active.all(0)
    layer.ever_active = ever if layer.ever_active is None else layer.ever_active | ever
    layer.always_active = always if layer.always_active is None else layer.always_active & always
