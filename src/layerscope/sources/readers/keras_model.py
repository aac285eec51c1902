"""A live Keras 3 model on any backend: every variable, laid out by the layer that owns it."""

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
    """An instance of keras.Layer (a Model is one), recognised without importing keras."""
    keras = sys.modules.get("keras")
    return keras is not None and hasattr(keras, "Layer") and isinstance(target, keras.Layer)


def open(target: Any) -> Tensors:
    """Describe every variable of the model; nothing in it is changed."""
    values: dict[str, Any] = {}
    rows = []
    for owner, variable in _iterate_variables(target):
        path = variable.path.removeprefix(f"{target.name}/")  # which a Sequential puts before its layers' names
        name, occurrence = path, 1
        while name in values:
            occurrence += 1
            name = f"{path}#{occurrence}"
        is_lora_kernel = variable.name == "kernel" and getattr(owner, "lora_enabled", False)
        values[name] = owner.kernel if is_lora_kernel else variable  # what the layer computes with
        rows.append(_describe_variable(owner, variable, name))
    if not rows:
        raise Unreadable(f"{type(target).__name__} has no variables; build it, or call it once")
    return source_from_variables(
        make_spec(target, "keras_model", portable=False), rows, lambda name: _to_array(values[name])
    )


def _iterate_variables(model: Any) -> Iterator[tuple[Any, Any]]:
    """(layer, variable) of the model, each variable once, by the innermost layer that has it."""
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
    """The numbers of a variable, in its own dtype."""
    value = getattr(variable, "value", variable)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        from layerscope.sources.readers.torch_tensor import to_numpy

        return to_numpy(value)
    return np.asarray(value)
