"""Pools of 2 × 2 without the places of their maxima, which only a gradient needs: a quarter of the time on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quick(model: Any) -> Iterator[None]:
    """Inside, max pools of windows of 2 × 2 side by side are two maxima of rows and columns: the same numbers."""
    from torch import nn

    found = [m for m in model.modules() if type(m) is nn.MaxPool2d and _plain(m)]
    try:
        for module in found:
            module.forward = _of(module)
        yield
    finally:
        for module in found:
            module.__dict__.pop("forward", None)


def _plain(module: Any) -> bool:
    numbers = module.kernel_size, module.stride, module.padding, module.dilation
    return [n if isinstance(n, tuple) else (n, n) for n in numbers] == [(2, 2), (2, 2), (0, 0), (1, 1)] and not (
        module.return_indices or module.ceil_mode
    )


def _of(module: Any) -> Any:
    import torch

    def forward(x: Any) -> Any:
        even = x.dim() == 4 and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
        if not even or x.requires_grad or not x.is_contiguous(memory_format=torch.channels_last):
            return type(module).forward(module, x)
        rows = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
        return torch.maximum(rows[:, :, :, 0::2], rows[:, :, :, 1::2])

    return forward
