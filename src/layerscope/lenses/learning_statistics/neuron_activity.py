"""Which units are ever, and which are always, active behind a ReLU: modules and functions, in place or not."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from layerscope.lenses.learning_statistics.kfac_hooks import Caught, State
from layerscope.lenses.learning_statistics.layer_rows import kind_of


def activities(state: State) -> AbstractContextManager[Any]:
    """While it lasts, the output of each ReLU is counted for the layer whose units it has.

    A unit is a feature of a linear layer, a channel of a convolution; exactly zero is inactive. What lies between the
    layer and the ReLU and keeps the shape (a normalisation, a residual sum) hands the units on; of a sum they are those
    of the layer that came last.
    """
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    relus = {functional.relu, functional.relu_, functional.relu6, torch.relu, torch.relu_, torch.Tensor.relu,
             torch.Tensor.relu_}  # fmt: skip

    class Watch(TorchFunctionMode):  # type: ignore[misc]
        """Looks at what functions return."""

        inside = False  # functional.relu calls torch.relu

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            outer = func in relus and not self.inside
            maker = _maker(args, state) if state.forward else None
            self.inside = self.inside or outer
            try:
                output = func(*args, **(kwargs or {}))
            finally:
                self.inside = self.inside and not outer
            if maker is None or not isinstance(output, torch.Tensor):
                return output
            if outer:
                _count(maker, output.detach())
                state.makers.pop(id(output), None)  # what is behind it are other units
            elif not self.inside and output.shape == args[0].shape:
                state.made(output, maker)
            return output

    return Watch()


def _maker(args: Any, state: State) -> Caught | None:
    """The layer whose units the arguments have: of several the one that came last."""
    found = [state.makers[id(each)] for each in args if id(each) in state.makers]
    if len(found) < 2:
        return found[0] if found else None
    order = [id(caught) for caught, _, _ in state.calls]
    return max(found, key=lambda caught: order.index(id(caught)) if id(caught) in order else -1)


def _count(caught: Caught, output: Any) -> None:
    axis = output.dim() - 1 if kind_of(caught.module) == "linear" else 1
    if output.dim() < 2 or output.shape[axis] != caught.units:
        return
    active = output.movedim(axis, -1).reshape(-1, caught.units) > 0
    ever, always = active.any(0), active.all(0)
    caught.ever = ever if caught.ever is None else caught.ever | ever
    caught.always = always if caught.always is None else caught.always & always
