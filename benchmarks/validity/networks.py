"""The networks of the validity study: multilayer perceptrons, convolutional networks and transformers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

CLASSES, CONTEXT, PATCH = 10, 32, 7


def build(kind: str, *, width: int, depth: int, norm: bool, side: int, symbols: int) -> nn.Module:
    """Build a network for images of side × side pixels, or for text of so many symbols."""
    if kind == "mlp":
        return perceptron([side * side, *[width] * depth, CLASSES], norm)
    if kind == "cnn":
        return convolutional(width, depth, norm)
    return Transformer(width, depth, side=side, symbols=symbols)


def perceptron(sizes: list[int], norm: bool) -> nn.Module:
    """Build linear layers with ReLU between them, and with layer norm before each ReLU if asked for."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), *([nn.LayerNorm(fan_out)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def convolutional(width: int, depth: int, norm: bool) -> nn.Module:
    """Build 3×3 convolutions, the first two with stride 2, then the mean over all positions and a linear layer."""
    layers: list[nn.Module] = []
    for number, (fan_in, fan_out) in enumerate(pairwise([1, width, *[2 * width] * depth])):
        convolution = nn.Conv2d(fan_in, fan_out, 3, stride=2 if number < 2 else 1, padding=1)
        layers += [convolution, *([nn.BatchNorm2d(fan_out)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, CLASSES))


class Transformer(nn.Module):
    """A transformer with layer norm first: over characters with a causal mask, or over the patches of an image."""

    def __init__(self, width: int, depth: int, *, side: int, symbols: int) -> None:
        super().__init__()
        self.symbols = symbols
        self.embed: nn.Module = nn.Embedding(symbols, width) if symbols else nn.Linear(PATCH * PATCH, width)
        self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT if symbols else (side // PATCH) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, causal=bool(symbols)) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols or CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits: of the next character at every position, or of the class of an image."""
        if not self.symbols:
            x = nn.functional.unfold(x[:, None] if x.ndim == 3 else x, PATCH, stride=PATCH).transpose(1, 2)
        h = self.embed(x) + self.positions
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        return self.head(h if self.symbols else h.mean(1))


class Block(nn.Module):
    """Attention with four heads and a feed-forward part of four times the width."""

    def __init__(self, width: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.up_proj, self.down_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return the residual stream after this block."""
        n, t, d = h.shape
        x = self.attention_norm(h)
        q, k, v = (p(x).view(n, t, 4, d // 4).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        mixed: Any = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        h = h + self.o_proj(mixed.transpose(1, 2).reshape(n, t, d))
        return h + self.down_proj(nn.functional.gelu(self.up_proj(self.mlp_norm(h))))
