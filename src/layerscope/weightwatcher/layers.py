"""List, name and select the layers of a model as weightwatcher 0.7.7 does."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import TargetError, UnknownFormat, UnknownName, UsageError
from layerscope.numerics import matrices
from layerscope.records.layers import LayerRef
from layerscope.sources.opening import open_target
from layerscope.sources.readers import lora
from layerscope.sources.targets import name_of
from layerscope.weightwatcher.names import SUPPORTED, TYPES

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats


@dataclass(frozen=True)
class Layer:
    """One layer with the id and names that weightwatcher 0.7.7 gives it."""

    id: int
    name: str
    longname: str
    type: str
    weight: Any  # array or torch tensor
    bias: Any = None
    owner: Any = None  # the torch module, of a live model

    def array(self) -> Array:
        """Return the weight as a NumPy array."""
        return as_array(self.weight)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(N, M, rf): longer side, shorter side and number of kernel positions."""
        rf = math.prod(self.shape[2:])
        return max(self.shape[:2]), min(self.shape[:2]), rf


def is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def as_array(weight: Any) -> Array:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(weight, torch.Tensor):
        from layerscope.sources.readers.torch_tensor import to_numpy

        return to_numpy(weight)
    return np.asarray(weight)


def as_float64(weight: Any) -> Floats:
    wide: Floats = as_array(weight).astype(np.float64)
    return wide


def layers_of(model: Any, start_ids: int) -> list[Layer]:
    """List all modules or ``.weight`` tensors with the ids and names that weightwatcher 0.7.7 gives them.

    :param start_ids: id of the first layer.
    :raises UnknownFormat: the model is of an unknown kind.
    """
    if isinstance(start_ids, bool) or not isinstance(start_ids, numbers.Integral):
        raise UsageError(f"start_ids must be a whole number, not {start_ids!r:.40}")
    if is_module(model):
        return _layers_of_module(model, start_ids)
    if isinstance(model, Mapping):
        return _layers_of_state_dict(model, start_ids or 1)
    if isinstance(model, str | Path):
        source = open_target(model)
        tensors, fetch = getattr(source, "tensors", None), getattr(source, "fetch", None)
        if tensors is None or fetch is None:
            if isinstance(source, lora.AdapterSource):
                tensors, fetch = source.weights.tensors, source.weights.fetch
            else:
                raise UnknownFormat(f"{model}: tensors of this format cannot be listed by name; use layerscope.analyze")
        readable = [info for info in tensors if info.name.endswith((".weight", ".bias")) and not info.fault]
        return _layers_of_state_dict({info.name: fetch(info.name) for info in readable}, start_ids)
    raise UnknownFormat(f"cannot analyze a {name_of(model)}; give a torch module, a state dict, a file or a folder")


def _layers_of_module(model: Any, start_ids: int) -> list[Layer]:
    layers = []
    for number, (path, owner) in enumerate(model.named_modules(), start_ids):
        torch = sys.modules["torch"]
        try:
            weight = getattr(owner, "weight", None)
        except Exception:  # `weight` may be a property of a user's class, and may raise anything
            continue
        lazy = isinstance(weight, torch.nn.parameter.UninitializedTensorMixin)
        if lazy or not isinstance(weight, torch.Tensor) or weight.is_meta or weight.layout is not torch.strided:
            continue
        name = path.rpartition(".")[2] or type(owner).__name__
        bias = getattr(owner, "bias", None)
        layers.append(Layer(number, name, path or name, _module_type(owner, weight), weight.detach(), bias, owner))
    return layers


def _module_type(owner: Any, weight: Any) -> str:
    from torch import nn

    name, dimensions = type(owner).__name__.lower(), weight.ndim
    if not weight.is_floating_point():
        return "unknown"
    for kind, classes, class_word, expected_dimensions in (
        ("dense", nn.Linear, "linear", 2), ("conv1d", nn.Conv1d, "conv1d", 3), ("conv2d", nn.Conv2d, "conv2d", 4),
        ("embedding", (nn.Embedding, nn.EmbeddingBag), "embedding", 2),
    ):  # fmt: skip
        if dimensions == expected_dimensions and (
            isinstance(owner, classes) or (class_word in name and "transpose" not in name)
        ):
            return kind
    if name == "conv1d" and dimensions == 2:  # transformers' Conv1D is a Linear stored (in, out)
        return "dense"
    return "norm" if "norm" in name else "unknown"


def _layers_of_state_dict(state: Mapping[str, Any], start: int) -> list[Layer]:
    if "state_dict" in state and isinstance(state["state_dict"], Mapping):
        state = state["state_dict"]
    layers = []
    for number, key in enumerate((key for key in state if str(key).endswith(".weight")), start):
        weight = state[key]
        if not hasattr(weight, "shape"):
            raise TargetError(f"{key} is a {type(weight).__name__}, not a tensor; give a state dict of tensors")
        stem = str(key).removesuffix(".weight")
        kind = {2: "dense", 4: "conv2d", 1: "norm"}.get(len(weight.shape), "unknown")
        if "float" not in str(weight.dtype) or "sparse" in str(getattr(weight, "layout", "")):
            kind = "unknown"
        layers.append(Layer(number, stem, stem, kind, weight, state.get(f"{stem}.bias")))
    return layers


@dataclass(frozen=True)
class Selection:
    """Selected ids, types and names of layers, as weightwatcher 0.7.7 documents them.

    Negative ids and names that begin with "-" exclude layers.
    """

    types: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    dropped_ids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    dropped_names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: Any, layers: Sequence[Layer]) -> Selection:
        """Parse the argument ``layers`` and check it against the layers of the model.

        :raises UsageError: the argument is not a selection, mixes including and excluding, or has an unknown id.
        :raises UnknownName: no layer has one of the names.
        """
        try:
            items = [value] if isinstance(value, str | numbers.Integral) else list(value or ())
        except TypeError:
            raise UsageError(f"layers takes a list of layer ids, types and names, not {value!r:.100}") from None
        ids = [int(item) for item in items if isinstance(item, numbers.Integral)]
        types = [item for item in items if isinstance(item, str) and item in TYPES]
        names = [item for item in items if isinstance(item, str) and item not in TYPES]
        if len(ids) + len(types) + len(names) < len(items):
            raise UsageError(f"layers takes a list of layer ids, types and names, not {items!r:.100}")
        if ids and min(ids) < 0 <= max(ids):
            raise UsageError(
                f"layers={ids} mixes ids to include (0 or above) with ids to exclude (below 0); give one kind"
            )
        dropped = [name.removeprefix("-") for name in names if name.startswith("-")]
        if dropped and len(dropped) < len(names):
            raise UsageError(
                f"layers={names} mixes names to include with names to exclude (those with a leading '-'); give one kind"
            )
        last_id = max((layer.id for layer in layers), default=0)
        known_names = {name for layer in layers for name in (layer.name, layer.longname)}
        for number in ids:  # a smaller unknown id is no error: it may belong to a module without weights
            if abs(number) > last_id:
                raise UsageError(f"layers={ids}: no layer has the id {abs(number)}; describe() lists the ids")
        for name in dropped or names:
            if name not in known_names:
                raise UnknownName("layer", name, known_names)
        return cls(
            types=tuple(types),
            ids=tuple(number for number in ids if number >= 0),
            dropped_ids=tuple(-number for number in ids if number < 0),
            names=() if dropped else tuple(names),
            dropped_names=tuple(dropped),
        )

    def keeps(self, layer: Layer) -> bool:
        """Whether the selection includes this layer."""
        names = {layer.name, layer.longname}
        return (
            (not self.types or layer.type in self.types)
            and (not self.ids or layer.id in self.ids)
            and layer.id not in self.dropped_ids
            and (not self.names or not names.isdisjoint(self.names))
            and names.isdisjoint(self.dropped_names)
        )


def select_layers(layers: Sequence[Layer], argument: Any) -> list[Layer]:
    """Return the layers that the argument ``layers`` selects; all layers if it is empty."""
    selection = Selection.parse(argument, layers)
    return [layer for layer in layers if selection.keeps(layer)]


def select_analyzable(
    layers: list[Layer], argument: Any, min_evals: int, max_evals: int, max_n: int, pool: bool
) -> list[Layer]:
    """Return the layers that weightwatcher 0.7.7 would analyze."""
    for name, value in (("min_evals", min_evals), ("max_evals", max_evals), ("max_N", max_n)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise UsageError(f"{name} must be a whole number, not {value!r:.40}")
    if max_evals and max_evals < min_evals:
        raise UsageError(f"max_evals={max_evals} must not be smaller than min_evals={min_evals}")
    chosen = []
    for layer in select_layers(layers, argument):
        if layer.type in SUPPORTED and 0 not in layer.shape:
            n, m, rf = layer.sizes
            count = m * rf if pool else m
            if count >= min_evals and (not max_evals or count <= max_evals) and n <= max_n:
                chosen.append(layer)
    return chosen


def sizes_of(layer: Layer, pool: bool, matrix: int) -> dict[str, Any]:
    """Return the size columns of a layer, or of one of its matrices without ``pool``."""
    n, m, rf = layer.sizes
    sizes = {"layer_id": layer.id, "name": layer.name, "M": m, "N": n, "Q": n / m, "layer_type": layer.type,
             "longname": layer.longname, "num_evals": m * rf if pool else m, "rf": rf}  # fmt: skip
    return sizes if pool else sizes | {"slice_id": matrix}


def key_of(layer: Layer, matrix: int | None) -> str:
    """Return the name of a layer, or of one of its matrices, in the report."""
    return f"{layer.longname}.weight" if matrix is None else f"{layer.longname}/{matrix}.weight"


def tensors_of(layers: Iterable[Layer], pool: bool, conv2d_norm: bool) -> dict[str, Array]:
    """Return the arrays to analyze: whole tensors, or one matrix per kernel position without ``pool``.

    With ``conv2d_norm``, the matrices are scaled by √(rf/2), as weightwatcher 0.7.7 does.
    """
    if pool:
        return {key_of(layer, None): layer.array() for layer in layers}
    arrays = {}
    for layer in layers:
        stack = stack_of(layer)[1]
        factor = math.sqrt(len(stack) / 2) if conv2d_norm and layer.type == "conv2d" else 1.0
        for i, matrix in enumerate(stack):
            arrays[key_of(layer, i)] = matrix if factor == 1.0 else factor * matrix.astype(np.float64)
    return arrays


def stack_of(layer: Layer) -> tuple[LayerRef, Array]:
    """Return a layer's reference and its matrices as a stack (k, n, m)."""
    array = layer.array()
    axes = "oi" + "dhw"[-(array.ndim - 2) :] * (array.ndim > 2)
    ref = LayerRef(layer.id, layer.longname, array.shape, axes, str(array.dtype), layer.type)
    return ref, matrices.unfold(array, ref)
