"""Weights of models as arrays by name, and linear combinations of several models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.sources import opening
from layerscope.sources.several_models import MAX_NAMED_TENSORS, tensors_of
from layerscope.tensor_names import matching_keys, strip_wrapper_prefixes

if TYPE_CHECKING:
    from layerscope.array_types import Array

Weights = Mapping[str, Any]
RUNNING_STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")


def weights_of(model: Any) -> dict[str, Array]:
    """Return every floating-point tensor of a model by name.

    The model is a live module, a mapping of arrays or any other target. Types narrower than float32 become float32.
    """
    if isinstance(model, Mapping) and model and all(hasattr(value, "shape") for value in model.values()):
        model = _drop_tied(model)
        array_by_name = {strip_wrapper_prefixes(str(name)): _to_array(value) for name, value in model.items()}
        return {name: value for name, value in array_by_name.items() if value.dtype.kind == "f"}
    if isinstance(model, Mapping) and isinstance(model.get("state_dict"), Mapping):
        return weights_of(model["state_dict"])
    if hasattr(model, "get_weights") and hasattr(model, "weights"):  # Keras renumbers layers, so match by position
        variable_by_name = {f"{place}.{v.name}": v for place, v in enumerate(model.weights)}
        return {
            name: _widen(np.asarray(_keras_value(v))) for name, v in variable_by_name.items() if "float" in str(v.dtype)
        }
    if hasattr(model, "state_dict") and hasattr(model, "named_parameters"):
        return weights_of(model.state_dict())
    with opening.opened_source(model) as source:
        formed = getattr(source, "formed", ())  # a live model has the ingredients as its parameters, as the file has
        return {
            name: _widen(_with_shape(np.asarray(source.read(tensor.ref)), tensor.shape))
            for name, tensor in tensors_of(source).items()
            if tensor.ref.tensor not in formed
        }


def weights_of_all(models: Iterable[Any]) -> list[dict[str, Array]]:
    """Return the floating-point tensors of several models, all under the names of the first."""
    first, *others = [weights_of(model) for model in models]
    return [first, *(named_like(other, list(first)) for other in others)]


def named_like(weights: Weights, names: Sequence[str]) -> dict[str, Any]:
    """Return the weights under the names of another model, as far as :func:`matching_keys` matches them."""
    if set(names) <= weights.keys():
        return dict(weights)
    reference, keys = matching_keys(names, list(weights))
    name_by_key = {key: name for name, key in reference.items()}
    return {name_by_key.get(keys[name], name): value for name, value in weights.items()}


def _with_shape(value: Array, shape: tuple[int, ...]) -> Array:
    """Return the value in the header's shape, or as stored if the shape is (): the tensor holds several weights."""
    return value.reshape(shape) if shape else value


def _keras_value(variable: Any) -> Any:
    """Return the value of a Keras variable as a NumPy array, with any backend."""
    import keras

    return keras.ops.convert_to_numpy(variable)


def _drop_tied(state: Mapping[str, Any]) -> dict[str, Any]:
    """Keep only the first name of tied tensors."""
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
    """Return a key shared by all tensors with the same memory; an empty tensor has a key of its own."""
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else id(tensor)


def _check_not_lazy(value: Any) -> None:
    """Check that a parameter has a shape.

    :raises UsageError: the parameter is lazy and has no shape yet.
    """
    from torch.nn.parameter import is_lazy

    if is_lazy(value):
        raise UsageError("the model has lazy parameters without a shape; run one forward pass first")


def load_into(network: Any, weights: Weights) -> None:
    """Copy weights into a torch module; names that it does not have are ignored."""
    import torch

    state = network.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            if name in state:
                state[name].copy_(torch.from_numpy(np.array(value)))


def trainable_names(weights: Weights) -> list[str]:
    """Return the names of the learned tensors: all except running statistics."""
    return [name for name in weights if not name.endswith(RUNNING_STATISTICS)]


def check_same_tensors(points: Sequence[Weights], names: Sequence[str]) -> None:
    """Check that all models have the same tensors.

    :raises UsageError: names or shapes differ; the message lists them.
    """
    for weights, name in zip(points[1:], names[1:], strict=True):
        unshared = sorted(set(points[0]) ^ set(weights))
        reshaped = [key for key in points[0] if key in weights and points[0][key].shape != weights[key].shape]
        if unshared or reshaped:
            differences = [f"{key} (only in {names[0] if key in points[0] else name})" for key in unshared]
            differences += [f"{key} (shape {points[0][key].shape} and {weights[key].shape})" for key in reshaped]
            more = f", … {len(differences) - MAX_NAMED_TENSORS} more" if len(differences) > MAX_NAMED_TENSORS else ""
            raise UsageError(
                f"{names[0]} and {name} must have the same architecture, but differ in "
                f"{', '.join(differences[:MAX_NAMED_TENSORS])}{more}"
            )


def combine(points: Sequence[Weights], coefficients: Sequence[float]) -> dict[str, Array]:
    """Return Σ cᵢ·points[i], tensor by tensor.

    Points with a coefficient of zero are skipped, so that a combination of a single model equals it exactly.
    """
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
