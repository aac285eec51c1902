"""Max pools of 2 × 2 on images with channels last, as no gradient needs them, and ReLUs after them.

A pool is two maxima, of rows and of columns, without the places of the maxima. max(relu(a), relu(b)) =
relu(max(a, b)): the same numbers, a quarter of the ReLUs, less memory to go through. A view that a tensor with channels
last cannot give is a copy.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from layerscope.live.call_trace import CallTrace, has_hooks


@dataclass(frozen=True)
class FastPooling:
    """Which calls of a model are replaced."""

    active: bool = False  # has the model pools that could be faster, or views?
    late_relus: frozenset[int] = frozenset()  # which of its ReLUs, by number, come after the pool that follows

    @classmethod
    def from_trace(cls, model: Any, trace: CallTrace) -> FastPooling:
        """What one run of the model shows can be replaced."""
        if has_hooks(model):
            return cls()  # they would see what comes out of a ReLU
        active = any(_is_half_pool(func, *arguments) or _is_view(func) for func, arguments, _ in trace.calls)
        return cls(active, _relus_before_pools(trace))

    def applied(self) -> AbstractContextManager[Any]:
        """For one run of the model."""
        return _pooling_mode()(self.late_relus) if self.active else nullcontext()


def _relus_before_pools(trace: CallTrace) -> frozenset[int]:
    """The ReLUs whose input and output nothing takes but themselves and the pool that is called next."""
    numbers, number, use_counts = set[int](), -1, trace.use_counts()
    following = [*trace.calls[1:], (None, ((), {}), None)]
    for (func, (args, _), result), (next_func, (next_args, next_kwargs), _) in zip(trace.calls, following, strict=True):
        number += func in _relu_functions()
        is_relu = func in _relu_functions() and args and next_args and next_args[0] is result
        if not (is_relu and _is_half_pool(next_func, next_args, next_kwargs)):
            continue
        expected = {2} if result is args[0] else {1}  # in place one tensor is both
        if {use_counts[id(args[0])], use_counts[id(result)]} == expected and result is not trace.output:
            numbers.add(number)
    return frozenset(numbers)


@functools.cache
def _relu_functions() -> frozenset[Any]:
    import torch
    from torch.nn import functional as f

    return frozenset((f.relu, f.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_))


@functools.cache
def _pool_functions() -> frozenset[Any]:
    import torch
    from torch.nn import functional

    return frozenset((functional.max_pool2d, torch.max_pool2d))


def _is_half_pool(func: Any, args: Any, kwargs: Any) -> bool:
    """Is it a pool of windows of 2 × 2, side by side?"""
    if func not in _pool_functions():
        return False
    names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    options = {"padding": 0, "dilation": 1, **dict(zip(names, args, strict=False)), **kwargs}
    if options.get("ceil_mode") or options.get("return_indices"):
        return False
    stride = options.get("stride") or options["kernel_size"]
    sizes = options["kernel_size"], stride, options["padding"], options["dilation"]
    return [tuple(n) if isinstance(n, tuple | list) else (n, n) for n in sizes] == [(2, 2), (2, 2), (0, 0), (1, 1)]


def _is_view(func: Any) -> bool:
    import torch

    return func is torch.Tensor.view


@functools.cache
def _pooling_mode() -> Any:
    import torch
    from torch.overrides import TorchFunctionMode

    relus, channels_last, view = _relu_functions(), torch.channels_last, torch.Tensor.view

    def is_suitable(x: Any) -> bool:
        shape = x.shape
        is_image = len(shape) == 4 and min(shape[2:]) > 1 and not torch.is_grad_enabled()
        try:
            return is_image and bool(x.is_contiguous(memory_format=channels_last))
        except RuntimeError:  # inside vmap nothing lies anywhere
            return False

    class PoolingMode(TorchFunctionMode):  # type: ignore[misc]
        """One run."""

        def __init__(self, late_relus: frozenset[int]) -> None:
            super().__init__()
            self.late_relus = late_relus
            self.relu_count = 0  # so far
            self.delayed: Any = None  # the input of a ReLU that was put off

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            delayed, self.delayed = self.delayed, None
            if args and _is_half_pool(func, args, kwargs) and is_suitable(args[0]):
                rows = torch.maximum(args[0][:, :, :-1:2], args[0][:, :, 1::2])  # an odd one out is left out
                pooled = torch.maximum(rows[:, :, :, :-1:2], rows[:, :, :, 1::2])
                return pooled.relu_() if args[0] is delayed else pooled
            if delayed is not None:  # the model takes another way than it did
                delayed.relu_()
            if func in relus:
                self.relu_count += 1
                if self.relu_count - 1 in self.late_relus and args and is_suitable(args[0]):
                    self.delayed = args[0]
                    return args[0]
            if func is not view:
                return func(*args, **kwargs)
            try:
                return func(*args, **kwargs)
            except RuntimeError:  # of channels that lie last there is none
                return args[0].reshape(*args[1:], **kwargs)

        def __exit__(self, *error: Any) -> None:
            if self.delayed is not None:
                self.delayed.relu_()
            super().__exit__(*error)

    return PoolingMode
