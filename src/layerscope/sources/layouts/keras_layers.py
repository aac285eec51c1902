"""Kinds of Keras layers, and the settings of each layer in a saved model's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = {  # Keras class → kind of layer
    "Dense": "dense",
    "Conv1D": "conv", "Conv2D": "conv", "Conv3D": "conv",
    "Conv1DTranspose": "conv_transpose", "Conv2DTranspose": "conv_transpose", "Conv3DTranspose": "conv_transpose",
    "DepthwiseConv1D": "depthwise", "DepthwiseConv2D": "depthwise",
    "SeparableConv1D": "separable", "SeparableConv2D": "separable",
    "Embedding": "embedding", "ReversibleEmbedding": "embedding",
    "EinsumDense": "einsum",
    "LSTMCell": "lstm", "GRUCell": "gru", "SimpleRNNCell": "rnn",
    "LSTM": "lstm", "GRU": "gru", "SimpleRNN": "rnn", "CuDNNLSTM": "lstm", "CuDNNGRU": "gru",
    "ConvLSTMCell": "lstm", "ConvLSTM1D": "lstm", "ConvLSTM2D": "lstm", "ConvLSTM3D": "lstm",
    "BatchNormalization": "norm", "LayerNormalization": "norm", "GroupNormalization": "norm",
    "UnitNormalization": "norm", "RMSNormalization": "norm",
}  # fmt: skip
RECURRENT_KINDS = ("lstm", "gru", "rnn")
VARIABLE_NAMES = {  # in the order in which a layer creates them
    "dense": ("kernel", "bias"),
    "conv": ("kernel", "bias"),
    "conv_transpose": ("kernel", "bias"),
    "depthwise": ("kernel", "bias"),
    "separable": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "embedding": ("embeddings", "reverse_embeddings"),
    "einsum": ("kernel", "bias"),
    "lstm": ("kernel", "recurrent_kernel", "bias"),
    "gru": ("kernel", "recurrent_kernel", "bias"),
    "rnn": ("kernel", "recurrent_kernel", "bias"),
    "norm": ("gamma", "beta", "moving_mean", "moving_variance"),
}
MAX_NESTING_DEPTH = 32  # levels of nested models
MAX_LAYERS = 1 << 17
NUMBER_SUFFIX = re.compile(r"_\d+$", re.ASCII)


@dataclass(frozen=True)
class LayerConfig:
    """Settings of one layer in a model's configuration."""

    kind: str
    groups: int
    equation: str
    position: int


def snake_case(name: str) -> str:
    """Return a class name as Keras writes it in files: Conv2DTranspose → conv2d_transpose."""
    spaced = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()


KINDS_BY_SNAKE_CASE = {snake_case(name): kind for name, kind in KINDS.items()}


def kind_of_group(group: str) -> str:
    """Return the kind of layer that a group of a weights file is named after, or "" for a custom name."""
    return KINDS_BY_SNAKE_CASE.get(group) or KINDS_BY_SNAKE_CASE.get(NUMBER_SUFFIX.sub("", group), "")


def layer_configs(config: Any) -> dict[tuple[str, ...], LayerConfig]:
    """Return the settings of every layer of a saved model, by the names of its enclosing layers and its own."""
    configs: dict[tuple[str, ...], LayerConfig] = {}
    _collect_layer_configs(config, (), configs, 0)
    return configs


def _collect_layer_configs(
    node: Any, parents: tuple[str, ...], configs: dict[tuple[str, ...], LayerConfig], depth: int
) -> None:
    if not isinstance(node, Mapping) or depth > MAX_NESTING_DEPTH or len(configs) > MAX_LAYERS:
        return
    inner = node.get("config")
    if not isinstance(inner, Mapping):
        return
    name, kind = inner.get("name"), KINDS.get(str(node.get("class_name")), "")
    path = (*parents, name) if isinstance(name, str) else parents
    groups, equation = inner.get("groups"), inner.get("equation")
    if isinstance(name, str):
        count = groups if isinstance(groups, int) and 0 < groups < 1 << 31 else 1
        text = equation if isinstance(equation, str) else ""
        configs.setdefault(path, LayerConfig(kind, count, text, len(configs)))
    layers = inner.get("layers")
    for child in layers if isinstance(layers, list) else []:
        _collect_layer_configs(child, path if depth else (), configs, depth + 1)
    for key in ("layer", "backward_layer", "cell"):
        _collect_layer_configs(inner.get(key), path, configs, depth + 1)
