"""The weights of models as arrays by name, and what lies between them: combinations whose corners are the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.sources import opening
from layerscope.sources.several_models import MAX_NAMED_TENSORS, tensors_of
from layerscope.tensor_names import strip_wrapper_prefixes

if TYPE_CHECKING:
    from layerscope.array_types import Array

Weights = Mapping[str, Any]
RUNNING_STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")


def weights_of(model: Any) -> dict[str, Array]:
    """Every floating tensor of a model by name: of a live module its state, of a mapping the arrays, of a file what is
    in it; narrower numbers become float32."""
    if isinstance(model, Mapping) and model and all(hasattr(value, "shape") for value in model.values()):
        model = _drop_tied(model)
        array_by_name = {strip_wrapper_prefixes(str(name)): _to_array(value) for name, value in model.items()}
        return {name: value for name, value in array_by_name.items() if value.dtype.kind == "f"}
    if isinstance(model, Mapping) and isinstance(model.get("state_dict"), Mapping):
        return weights_of(model["state_dict"])
    if hasattr(model, "get_weights") and hasattr(model, "weights"):  # Keras numbers its layers anew: by place
        variable_by_name = {f"{place}.{v.name}": v for place, v in enumerate(model.weights)}
        return {
            name: _widen(np.asarray(_keras_value(v))) for name, v in variable_by_name.items() if "float" in str(v.dtype)
        }
    if hasattr(model, "state_dict") and hasattr(model, "named_parameters"):
        return weights_of(model.state_dict())
    with opening.opened_source(model) as source:
        return {
            name: _widen(_with_shape(np.asarray(source.read(tensor.ref)), tensor.shape))
            for name, tensor in tensors_of(source).items()
        }


def _with_shape(value: Array, shape: tuple[int, ...]) -> Array:
    """As it is stored; of tensors that hold several weights the header's shape is of one of them, and () here."""
    return value.reshape(shape) if shape else value


def _keras_value(variable: Any) -> Any:
    """What a Keras variable holds, whatever its backend."""
    import keras

    return keras.ops.convert_to_numpy(variable)


def _drop_tied(state: Mapping[str, Any]) -> dict[str, Any]:
    """Tied tensors by their first name alone."""
    untied, memory_keys = {}, set()
    for name, value in state.items():
        if hasattr(value, "data_ptr"):
            _check_not_lazy(value)
            key: Any = memory_key(value)
        else:
            key = id(value)
        if key not in memory_keys:
            memory_keys.add(key)
            untied[name] = value
    return untied


def memory_key(tensor: Any) -> Any:
    """What tensors that are one memory have in common; an empty one is its own."""
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else id(tensor)


def _check_not_lazy(value: Any) -> None:
    """A parameter has a shape.

    :raises UsageError: it is lazy and has none yet.
    """
    from torch.nn.parameter import is_lazy

    if is_lazy(value):
        raise UsageError("the model has parameters without a shape yet: run it once")


def load_into(network: Any, weights: Weights) -> None:
    """Put weights into a torch module, those that it has."""
    import torch

    state = network.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            if name in state:
                state[name].copy_(torch.from_numpy(np.array(value)))


def trainable_names(weights: Weights) -> list[str]:
    """Names of what is learned: all but running statistics."""
    return [name for name in weights if not name.endswith(RUNNING_STATISTICS)]


def check_same_tensors(points: Sequence[Weights], names: Sequence[str]) -> None:
    """All have the same tensors.

    :raises UsageError: names or shapes differ; they are listed.
    """
    for weights, name in zip(points[1:], names[1:], strict=True):
        unshared = sorted(set(points[0]) ^ set(weights))
        reshaped = [key for key in points[0] if key in weights and points[0][key].shape != weights[key].shape]
        if unshared or reshaped:
            differences = [f"{key} (only in {names[0] if key in points[0] else name})" for key in unshared]
            differences += [f"{key} {points[0][key].shape} and {weights[key].shape}" for key in reshaped]
            more = f", … {len(differences) - MAX_NAMED_TENSORS} more" if len(differences) > MAX_NAMED_TENSORS else ""
            raise UsageError(
                f"{names[0]} and {name} are not of one kind: {', '.join(differences[:MAX_NAMED_TENSORS])}{more}"
            )


def combine(points: Sequence[Weights], coefficients: Sequence[float]) -> dict[str, Array]:
    """Σ cᵢ·points[i], tensor by tensor; a point whose coefficient is zero does not count, so that corners are exact."""
    used = [(c, weights) for c, weights in zip(coefficients, points, strict=True) if c != 0.0]
    if not used:
        return {name: np.zeros_like(value) for name, value in points[0].items()}
    result = {}
    for name in points[0]:
        total = used[0][0] * used[0][1][name] if used[0][0] != 1.0 else used[0][1][name].copy()
        for c, weights in used[1:]:
            total = total + c * weights[name]
        result[name] = total.astype(points[0][name].dtype, copy=False)
    return result


def _to_array(value: Any) -> Array:
    if hasattr(value, "detach"):
        from layerscope.sources.readers.torch_tensor import to_numpy

        value = to_numpy(value.detach())
    return _widen(np.asarray(value))


def _widen(value: Array) -> Array:
    is_narrow = value.dtype.itemsize < 4 and value.dtype.kind in "fV"
    return value.astype(np.float32) if is_narrow or value.dtype.name in ("bfloat16",) else value
