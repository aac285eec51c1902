"""Images with channels last: any view of them, and max pools of 2 × 2 as no gradient needs them: without the places of
the maxima, and ReLU behind them.

max(relu(a), relu(b)) = relu(max(a, b)): the same numbers, a quarter of the ReLUs, less memory to go through.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from layerscope.landscape._calls import Calls, hooked


@dataclass(frozen=True)
class Quick:
    """What was seen in a run of a model."""

    called: bool = False  # has it pools that could be quicker, or views?
    late: frozenset[int] = frozenset()  # which of its ReLUs, by number, come after the pool that follows

    @classmethod
    def of(cls, model: Any, calls: Calls) -> Quick:
        """From what a run called."""
        if hooked(model):
            return cls()  # they would see what comes out of a ReLU
        return cls(any(_halves(func, *given) or _views(func) for func, given, _ in calls.made), _late(calls))

    def inside(self) -> AbstractContextManager[Any]:
        """For one run: pools are two maxima, of rows and of columns; a view that cannot be is a copy."""
        return _mode()(self.late) if self.called else nullcontext()


def _late(calls: Calls) -> frozenset[int]:
    """The ReLUs whose input and output nothing takes but themselves and the pool that is called next."""
    found, number, takers = set[int](), -1, calls.takers()
    behind = [*calls.made[1:], (None, ((), {}), None)]
    for (func, (args, _), result), (after, (taken, named), _) in zip(calls.made, behind, strict=True):
        number += func in _relus()
        if func not in _relus() or not (args and taken and taken[0] is result and _halves(after, taken, named)):
            continue
        wanted = {2} if result is args[0] else {1}  # in place one tensor is both
        if {takers[id(args[0])], takers[id(result)]} == wanted and result is not calls.output:
            found.add(number)
    return frozenset(found)


@functools.cache
def _relus() -> frozenset[Any]:
    import torch
    from torch.nn import functional as f

    return frozenset((f.relu, f.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_))


@functools.cache
def _pools() -> frozenset[Any]:
    import torch
    from torch.nn import functional

    return frozenset((functional.max_pool2d, torch.max_pool2d))


def _halves(func: Any, args: Any, kwargs: Any) -> bool:
    """Is it a pool of windows of 2 × 2, side by side?"""
    if func not in _pools():
        return False
    names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    told = {"padding": 0, "dilation": 1, **dict(zip(names, args, strict=False)), **kwargs}
    if told.get("ceil_mode") or told.get("return_indices"):
        return False
    sizes = told["kernel_size"], told.get("stride") or told["kernel_size"], told["padding"], told["dilation"]
    return [tuple(n) if isinstance(n, tuple | list) else (n, n) for n in sizes] == [(2, 2), (2, 2), (0, 0), (1, 1)]


def _views(func: Any) -> bool:
    import torch

    return func is torch.Tensor.view


@functools.cache
def _mode() -> Any:
    import torch
    from torch.overrides import TorchFunctionMode

    relus, last, view = _relus(), torch.channels_last, torch.Tensor.view

    def fit(x: Any) -> bool:
        shape = x.shape
        whole = len(shape) == 4 and min(shape[2:]) > 1 and not torch.is_grad_enabled()
        try:
            return whole and bool(x.is_contiguous(memory_format=last))
        except RuntimeError:  # inside vmap nothing lies anywhere
            return False

    class Pools(TorchFunctionMode):  # type: ignore[misc]
        """One run."""

        def __init__(self, late: frozenset[int]) -> None:
            super().__init__()
            self.late = late
            self.count = 0  # ReLUs so far
            self.waiting: Any = None  # the input of one that was put off

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            waiting, self.waiting = self.waiting, None
            if args and _halves(func, args, kwargs) and fit(args[0]):
                rows = torch.maximum(args[0][:, :, :-1:2], args[0][:, :, 1::2])  # an odd one out is left out
                pooled = torch.maximum(rows[:, :, :, :-1:2], rows[:, :, :, 1::2])
                return pooled.relu_() if args[0] is waiting else pooled
            if waiting is not None:  # the model takes another way than it did
                waiting.relu_()
            if func in relus:
                self.count += 1
                if self.count - 1 in self.late and args and fit(args[0]):
                    self.waiting = args[0]
                    return args[0]
            if func is not view:
                return func(*args, **kwargs)
            try:
                return func(*args, **kwargs)
            except RuntimeError:  # of channels that lie last there is none
                return args[0].reshape(*args[1:], **kwargs)

        def __exit__(self, *error: Any) -> None:
            if self.waiting is not None:
                self.waiting.relu_()
            super().__exit__(*error)

    return Pools
