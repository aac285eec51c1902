"""Live Keras 3 models on any backend: every variable, with axes from the layer that owns it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.sources.layouts.keras_flax_kernels import Variable
from layerscope.sources.layouts.keras_layers import KINDS, RECURRENT_KINDS
from layerscope.sources.readers.state_dict import Tensors, source_from_variables
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = False


def accepts(target: Any) -> bool:
    """Accept a keras.Layer, such as a keras.Model, without importing Keras."""
    keras = sys.modules.get("keras")
    return keras is not None and hasattr(keras, "Layer") and isinstance(target, keras.Layer)


def open(target: Any) -> Tensors:
    """Describe every variable of the model without changing it."""
    values: dict[str, Any] = {}
    rows = []
    for owner, variable in _iterate_variables(target):
        path = variable.path.removeprefix(f"{target.name}/")  # a Sequential prefixes its layers' names with its own
        name, occurrence = path, 1
        while name in values:
            occurrence += 1
            name = f"{path}#{occurrence}"
        is_lora_kernel = variable.name == "kernel" and getattr(owner, "lora_enabled", False)
        values[name] = owner.kernel if is_lora_kernel else variable  # with the LoRA update, as in the forward pass
        rows.append(_describe_variable(owner, variable, name))
    if not rows:
        raise Unreadable(
            f"{type(target).__name__} has no variables yet; build it with .build(input_shape), or call it on data once"
        )
    return source_from_variables(
        make_spec(target, "keras_model", portable=False), rows, lambda name: _to_array(values[name])
    )


def _iterate_variables(model: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each variable of the model once, as (innermost layer that owns it, variable)."""
    owners: dict[int, Any] = {}
    for layer in model._flatten_layers():
        for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
            owners[id(variable)] = layer
    listed = set()
    for variable in model.variables:
        if id(variable) not in listed:
            listed.add(id(variable))
            yield owners.get(id(variable), model), variable


def _describe_variable(owner: Any, variable: Any, name: str) -> Variable:
    kind = next((KINDS[c.__name__] for c in type(owner).__mro__ if c.__name__ in KINDS), "")
    groups, equation = getattr(owner, "groups", 1), getattr(owner, "equation", "")
    gates = kind if kind in RECURRENT_KINDS and variable.name in ("kernel", "recurrent_kernel") else ""
    shape = tuple(int(size) for size in variable.shape)
    dtype = str(variable.dtype)
    return Variable(name, shape, dtype, kind, groups if isinstance(groups, int) else 1, str(equation or ""), gates)


def _to_array(variable: Any) -> Array:
    """The values of a variable in its own dtype."""
    value = getattr(variable, "value", variable)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        from layerscope.sources.readers.torch_tensor import to_numpy

        return to_numpy(value)
    return np.asarray(value)
