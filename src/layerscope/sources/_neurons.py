"""Which units are ever, and which are always, active behind a ReLU: modules and functions, in place or not."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from layerscope.sources._rows import kind_of


def activities(state: Any) -> AbstractContextManager[Any]:
    """While it lasts, the output of each ReLU is counted for the layer whose output came last (``state.last``).

    A unit is a feature of a linear layer, a channel of a convolution; exactly zero is inactive. What lies between the
    layer and the ReLU (a normalisation, a residual sum) is left alone as long as it keeps the units.
    """
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    relus = {functional.relu, functional.relu_, functional.relu6, torch.relu, torch.relu_, torch.Tensor.relu,
             torch.Tensor.relu_}  # fmt: skip

    class Watch(TorchFunctionMode):  # type: ignore[misc]
        """Looks at what ReLUs return."""

        inside = False  # functional.relu calls torch.relu

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            outer = func in relus and not self.inside
            self.inside = self.inside or outer
            try:
                output = func(*args, **(kwargs or {}))
            finally:
                self.inside = self.inside and not outer
            if outer and state.last is not None:
                _count(state.last, output.detach())
                state.last = None
            return output

    return Watch()


def _count(caught: Any, output: Any) -> None:
    linear = kind_of(caught.module) == "linear"
    axis = output.dim() - 1 if linear else 1
    units = caught.module.out_features if linear else caught.module.out_channels
    if output.dim() < 2 or output.shape[axis] != units:
        return
    active = output.movedim(axis, -1).reshape(-1, units) > 0
    ever, always = active.any(0), active.all(0)
    caught.ever = ever if caught.ever is None else caught.ever | ever
    caught.always = always if caught.always is None else caught.always & always
