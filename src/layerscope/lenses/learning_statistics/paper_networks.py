"""Networks of the layer-wise conditioning paper: MLPs and residual networks, with and without batch norms.

The linear layers have no biases; their weights are drawn from U(±1/√d) or N(0, 2/d), or are orthogonal. The residual
networks have 6n + 2 layers for small images (He et al., CVPR 2016). Source: Huang et al., ECCV 2020 (arXiv 2002.10801)
and its authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from layerscope.errors import UnknownName, UsageError

INITS = ("random", "he", "orthogonal")


def mlp(widths: Sequence[int], *, norm: bool = False, init: str = "random", bias: bool = False, seed: int = 0) -> Any:
    """Build an MLP: linear layers ``fc1``, … with ReLUs between them.

    :param widths: widths of the input, the hidden layers and the output.
    :param norm: put batch norms ``bn1``, … before the ReLUs.
    :param init: distribution of the weights: "random", U(±1/√d_in); "he", N(0, 2/d_in); or "orthogonal".
    :param bias: give the linear layers biases; the paper's have none.
    :param seed: seed for the initial weights.
    :raises UsageError: there are fewer than two widths, or the initialization is unknown.
    """
    if len(widths) < 2:
        raise UsageError(f"widths={list(widths)}: an MLP needs at least two widths, of its input and its output")
    if init not in INITS:
        raise UnknownName("initialization", init, INITS)
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential()
    for i, (d_in, d_out) in enumerate(pairwise(widths), 1):
        layer = nn.Linear(d_in, d_out, bias=bias)
        _initialize(layer, init, generator)
        net.add_module(f"fc{i}", layer)
        if i < len(widths) - 1:
            if norm:
                net.add_module(f"bn{i}", nn.BatchNorm1d(d_out))
            net.add_module(f"relu{i}", nn.ReLU())
    return net


def _initialize(layer: Any, init: str, generator: Any) -> None:
    with torch.no_grad():
        d_in = layer.weight.shape[1]
        if init == "random":
            layer.weight.uniform_(-(d_in**-0.5), d_in**-0.5, generator=generator)
        elif init == "he":
            layer.weight.normal_(0, (2 / d_in) ** 0.5, generator=generator)
        else:
            torch.nn.init.orthogonal_(layer.weight, generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()


def resnet(
    depth: int, *, classes: int = 10, channels: int = 3, width: int = 16, last_bn: bool = False, seed: int = 0
) -> Any:
    """Build a residual network with 6n + 2 layers for small images: 3 stages of n blocks, shortcuts without weights.

    :param depth: number of layers: 8, 14, 20, … 56, 110.
    :param classes: number of outputs.
    :param channels: number of channels of the input images.
    :param width: channels of the first stage; the next two stages double it.
    :param last_bn: put a batch norm between the pooling and the last linear layer.
    :param seed: seed for the initial weights.
    :raises UsageError: the depth is not 6n + 2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise UsageError(f"depth={depth} is not 6n + 2; use 8, 14, 20, 26, 32, …")
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential()

    def conv(c_in: int, c_out: int, stride: int) -> Any:
        layer = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        with torch.no_grad():
            layer.weight.normal_(0, (2 / (9 * c_out)) ** 0.5, generator=generator)
        return layer

    net.add_module("conv", conv(channels, width, 1))
    net.add_module("bn", nn.BatchNorm2d(width))
    net.add_module("relu", nn.ReLU())
    channels_in = width
    for stage in range(3):
        channels_out = width * 2**stage
        for i in range((depth - 2) // 6):
            stride = 2 if stage and not i else 1
            net.add_module(
                f"block{stage + 1}_{i + 1}",
                Block(conv(channels_in, channels_out, stride), conv(channels_out, channels_out, 1)),
            )
            channels_in = channels_out
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    if last_bn:
        net.add_module("last_bn", nn.BatchNorm1d(channels_in))
    fc = nn.Linear(channels_in, classes)
    with torch.no_grad():
        fc.weight.uniform_(-(channels_in**-0.5), channels_in**-0.5, generator=generator)
        fc.bias.uniform_(-(channels_in**-0.5), channels_in**-0.5, generator=generator)
    net.add_module("fc", fc)
    return net


class Block(nn.Module):  # type: ignore[misc]
    """relu(x + bn(conv(relu(bn(conv(x)))))); where the size changes, x is subsampled and padded with zeros (type A)."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        self.conv1, self.bn1 = first, nn.BatchNorm2d(first.out_channels)
        self.conv2, self.bn2 = second, nn.BatchNorm2d(second.out_channels)

    def forward(self, x: Any) -> Any:
        """Return relu of the sum of shortcut and branch."""
        branch = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if branch.shape != x.shape:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, branch.shape[1] - x.shape[1]))
        return torch.relu(branch + x)


class NormedLinear(nn.Module):  # type: ignore[misc]
    """A batch norm over all examples and positions, followed by a linear layer."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        weight = linear.weight
        self.norm = nn.BatchNorm1d(linear.in_features, device=weight.device, dtype=weight.dtype)
        self.linear = linear
        self.train(linear.training)

    def forward(self, x: Any) -> Any:
        """Normalize the input and apply the linear layer."""
        return self.linear(self.norm(x.reshape(-1, x.shape[-1])).reshape(x.shape))
