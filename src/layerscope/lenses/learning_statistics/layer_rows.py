"""What a layer multiplies, as rows: inputs a and output-gradients d of which ∇W is Σ d aᵀ. Torch tensors.

Each is (examples, positions, groups, d): positions are those of a convolution or the steps of a sequence.
"""

from __future__ import annotations

from typing import Any

CONVENTIONS = ("expand", "reduce", "channels")


def kind_of(module: Any) -> str:
    """ "linear", "conv" or "conv_transpose" of what can be measured, else ""."""
    from torch import nn

    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "conv_transpose"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "conv"
    return "linear" if isinstance(module, nn.Linear) else ""


def input_rows(module: Any, x: Any, conv: str) -> Any:
    """Rows of the inputs: features, or the patches under the kernel; "channels" leaves the kernel out."""
    if kind_of(module) == "linear":
        return _with_example_axis(x, 1).unsqueeze(2)
    x = _with_example_axis(x, 1 + len(module.kernel_size), channels=True)
    if conv == "channels" or kind_of(module) == "conv_transpose":
        return _positions(x, module.groups)
    return patches(module, x)


def gradient_rows(module: Any, g: Any) -> Any:
    """Rows of the output gradient, that of the summed loss by the output."""
    if kind_of(module) == "linear":
        return _with_example_axis(g, 1).unsqueeze(2)
    return _positions(_with_example_axis(g, 1 + len(module.kernel_size), channels=True), module.groups)


def patches(module: Any, x: Any) -> Any:
    """What lies under the kernel at each position, (examples, positions, groups, in/groups · kernel).

    Of any number of dimensions, strides, dilations and padding modes; entries in the order of ``weight.flatten(1)``.
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
    """(examples, channels, *where) → (examples, positions, groups, channels/groups)."""
    examples, channels = x.shape[:2]
    return x.reshape(examples, groups, channels // groups, -1).permute(0, 3, 1, 2)


def _with_example_axis(x: Any, min_dims: int, *, channels: bool = False) -> Any:
    """With an axis of examples; what lies between it and the features is one axis of positions."""
    if x.dim() == min_dims:
        x = x.unsqueeze(0)
    if channels:
        return x
    return x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)
