"""The weights of models as arrays by name, and what lies between them: combinations whose corners are the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.sources import opening
from layerscope.sources.several_models import MOST_NAMED, tensors_of
from layerscope.tensor_names import strip_wrapper_prefixes

if TYPE_CHECKING:
    from layerscope.array_types import Array

Weights = Mapping[str, Any]
STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")


def weights_of(model: Any) -> dict[str, Array]:
    """Every floating tensor of a model by name: of a live module its state, of a mapping the arrays, of a file what is
    in it; narrower numbers become float32."""
    if isinstance(model, Mapping) and model and all(hasattr(value, "shape") for value in model.values()):
        model = _once(model)
        found = {strip_wrapper_prefixes(str(name)): _array(value) for name, value in model.items()}
        return {name: value for name, value in found.items() if value.dtype.kind == "f"}
    if isinstance(model, Mapping) and isinstance(model.get("state_dict"), Mapping):
        return weights_of(model["state_dict"])
    if hasattr(model, "get_weights") and hasattr(model, "weights"):  # Keras numbers its layers anew: by place
        named = {f"{place}.{v.name}": v for place, v in enumerate(model.weights)}
        return {name: _wide(np.asarray(_held(v))) for name, v in named.items() if "float" in str(v.dtype)}
    if hasattr(model, "state_dict") and hasattr(model, "named_parameters"):
        return weights_of(model.state_dict())
    with opening.opened(model) as source:
        return {
            name: _wide(_shaped(np.asarray(source.read(tensor.ref)), tensor.shape))
            for name, tensor in tensors_of(source).items()
        }


def _shaped(value: Array, shape: tuple[int, ...]) -> Array:
    """As it is stored; of tensors that hold several weights the header's shape is of one of them, and () here."""
    return value.reshape(shape) if shape else value


def _held(variable: Any) -> Any:
    """What a Keras variable holds, whatever its backend."""
    import keras

    return keras.ops.convert_to_numpy(variable)


def _once(state: Mapping[str, Any]) -> dict[str, Any]:
    """Tied tensors by their first name alone."""
    found, seen = {}, set()
    for name, value in state.items():
        if hasattr(value, "data_ptr"):
            is_lazy(value)
            key: Any = memory_key(value)
        else:
            key = id(value)
        if key not in seen:
            seen.add(key)
            found[name] = value
    return found


def memory_key(tensor: Any) -> Any:
    """What tensors that are one memory have in common; an empty one is its own."""
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else id(tensor)


def is_lazy(value: Any) -> bool:
    """Has a parameter no shape yet?

    :raises UsageError: so it is.
    """
    from torch.nn.parameter import is_lazy as lazy

    if lazy(value):
        raise UsageError("the model has parameters without a shape yet: run it once")
    return False


def load_into(network: Any, weights: Weights) -> None:
    """Put weights into a torch module, those that it has."""
    import torch

    state = network.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            if name in state:
                state[name].copy_(torch.from_numpy(np.array(value)))


def learned_names(weights: Weights) -> list[str]:
    """Names of what is learned: all but running statistics."""
    return [name for name in weights if not name.endswith(STATISTICS)]


def check_alike(points: Sequence[Weights], names: Sequence[str]) -> None:
    """All have the same tensors.

    :raises UsageError: names or shapes differ; they are listed.
    """
    for weights, name in zip(points[1:], names[1:], strict=True):
        apart = sorted(set(points[0]) ^ set(weights))
        other = [key for key in points[0] if key in weights and points[0][key].shape != weights[key].shape]
        if apart or other:
            told = [f"{key} (only in {names[0] if key in points[0] else name})" for key in apart]
            told += [f"{key} {points[0][key].shape} and {weights[key].shape}" for key in other]
            more = f", … {len(told) - MOST_NAMED} more" if len(told) > MOST_NAMED else ""
            raise UsageError(f"{names[0]} and {name} are not of one kind: {', '.join(told[:MOST_NAMED])}{more}")


def combined(points: Sequence[Weights], coefficients: Sequence[float]) -> dict[str, Array]:
    """Σ cᵢ·points[i], tensor by tensor; a point whose coefficient is zero does not count, so that corners are exact."""
    used = [(c, weights) for c, weights in zip(coefficients, points, strict=True) if c != 0.0]
    if not used:
        return {name: np.zeros_like(value) for name, value in points[0].items()}
    found = {}
    for name in points[0]:
        total = used[0][0] * used[0][1][name] if used[0][0] != 1.0 else used[0][1][name].copy()
        for c, weights in used[1:]:
            total = total + c * weights[name]
        found[name] = total.astype(points[0][name].dtype, copy=False)
    return found


def _array(value: Any) -> Array:
    if hasattr(value, "detach"):
        from layerscope.sources.readers.torch_tensor import to_numpy

        value = to_numpy(value.detach())
    return _wide(np.asarray(value))


def _wide(value: Array) -> Array:
    narrow = value.dtype.itemsize < 4 and value.dtype.kind in "fV"
    return value.astype(np.float32) if narrow or value.dtype.name in ("bfloat16",) else value
