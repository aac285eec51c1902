"""A dict of arrays: NumPy arrays or torch tensors by name, as ``model.state_dict()`` returns them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.sources import spec
from layerscope.sources._layout import TensorInfo
from layerscope.sources._state_dict import StateDict

if TYPE_CHECKING:
    from layerscope.types import Array

PORTABLE = False


def accepts(target: Any) -> bool:
    """A mapping, or a single array; what is in it is checked when it is opened."""
    return isinstance(target, Mapping | np.ndarray) or _is_torch(target)


def open(target: Any) -> StateDict:
    """Describe every array of the mapping, nested mappings joined by dots; a single array is called "array"."""
    flat = dict(_flatten(target if isinstance(target, Mapping) else {"array": target}, ""))
    if not flat:
        raise Unreadable("the dict holds no arrays; expected names and arrays, as in model.state_dict()")
    tensors = [_describe(name, value) for name, value in flat.items()]
    return StateDict(spec(target, "arrays", portable=False), tensors, lambda name: _array(flat[name]))


def _flatten(mapping: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found += _flatten(value, f"{name}.")
        elif isinstance(value, np.ndarray) or _is_torch(value) or hasattr(value, "__array__"):
            found.append((name, value))
        elif isinstance(value, list | tuple) and len(mapping) == 1 and value and isinstance(value[0], Mapping):
            found += _flatten(value[0], f"{name}.")
    return found


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _describe(name: str, value: Any) -> TensorInfo:
    if _is_torch(value):
        from layerscope.sources._torch_tensor import describe

        return describe(name, value)
    array = np.asarray(value)
    return TensorInfo(name, array.shape, array.dtype.name)


def _array(value: Any) -> Array:
    if _is_torch(value):
        from layerscope.sources._torch_tensor import to_numpy

        return to_numpy(value)
    return np.asarray(value)
