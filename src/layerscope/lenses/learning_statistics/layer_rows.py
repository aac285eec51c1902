"""Inputs a and output gradients d of a layer as rows of torch tensors, such that ∇W = Σ d aᵀ.

The shape is (examples, positions, groups, d), where positions are those of a convolution or the steps of a sequence.
"""

from __future__ import annotations

from typing import Any

CONVENTIONS = ("expand", "reduce", "channels")


def kind_of(module: Any) -> str:
    """Return "linear", "conv" or "conv_transpose" for modules that can be measured, "" for others."""
    from torch import nn

    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "conv_transpose"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "conv"
    return "linear" if isinstance(module, nn.Linear) else ""


def input_rows(module: Any, x: Any, conv: str) -> Any:
    """Return the inputs as rows: features, patches under the kernel, or with "channels" single channels."""
    if kind_of(module) == "linear":
        return _with_example_axis(x, 1).unsqueeze(2)
    x = _with_example_axis(x, 1 + len(module.kernel_size), channels=True)
    if conv == "channels" or kind_of(module) == "conv_transpose":
        return _positions(x, module.groups)
    return patches(module, x)


def gradient_rows(module: Any, g: Any) -> Any:
    """Return the output gradient of the summed loss as rows."""
    if kind_of(module) == "linear":
        return _with_example_axis(g, 1).unsqueeze(2)
    return _positions(_with_example_axis(g, 1 + len(module.kernel_size), channels=True), module.groups)


def patches(module: Any, x: Any) -> Any:
    """Return the patch of inputs under the kernel at each position, (examples, positions, groups, in/groups · kernel).

    Works for any number of dimensions, stride, dilation and padding mode. Entries are in the order of
    ``weight.flatten(1)``.
    """
    from torch.nn import functional

    dims = len(module.kernel_size)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    for i, (size, step, gap) in enumerate(zip(module.kernel_size, module.stride, module.dilation, strict=True)):
        x = x.unfold(2 + i, gap * (size - 1) + 1, step)[..., ::gap]
    examples, channels = x.shape[:2]
    out, kernel = x.shape[2 : 2 + dims], x.shape[2 + dims :]
    x = x.reshape(examples, module.groups, channels // module.groups, out.numel(), kernel.numel())
    return x.permute(0, 3, 1, 2, 4).reshape(examples, out.numel(), module.groups, -1)


def _positions(x: Any, groups: int) -> Any:
    """Reshape (examples, channels, *spatial) to (examples, positions, groups, channels/groups)."""
    examples, channels = x.shape[:2]
    return x.reshape(examples, groups, channels // groups, -1).permute(0, 3, 1, 2)


def _with_example_axis(x: Any, min_dims: int, *, channels: bool = False) -> Any:
    """Add the axis of examples if it is missing, and merge all axes between it and the features into one."""
    if x.dim() == min_dims:
        x = x.unsqueeze(0)
    if channels:
        return x
    return x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)
