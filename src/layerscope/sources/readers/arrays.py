"""Arrays by name: NumPy arrays or torch tensors, as in ``model.state_dict()``, and JAX pytrees."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.sources.inventory import JAX_OPTIMIZER_KEYS
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.state_dict import Tensors, source_from_names
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = False


def accepts(target: Any) -> bool:
    """Accept a mapping, a single array or a JAX pytree; the contents are checked by :func:`open`."""
    return isinstance(target, Mapping | np.ndarray) or _is_torch(target) or _flatten_pytree(target) is not None


def open(target: Any) -> Tensors:
    """Describe every array of the mapping; keys of nested mappings are joined by dots, a single array is "array"."""
    leaf_by_path = _flatten_pytree(target)
    array_by_name = (
        dict(_flatten_mapping(target if isinstance(target, Mapping) else {"array": target}, ""))
        if leaf_by_path is None
        else leaf_by_path
    )
    if not array_by_name:
        raise Unreadable("the dict holds no arrays; expected a dict of names and arrays, e.g. model.state_dict()")
    infos = [_describe_array(name, value) for name, value in array_by_name.items()]
    return source_from_names(
        make_spec(target, "arrays", portable=False), infos, lambda name: _to_array(array_by_name[name])
    )


def _flatten_mapping(mapping: Mapping[Any, Any], prefix: str) -> list[tuple[str, Any]]:
    arrays: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if key in JAX_OPTIMIZER_KEYS:
            continue
        if isinstance(value, Mapping):
            arrays += _flatten_mapping(value, f"{name}.")
        elif isinstance(value, np.ndarray) or _is_torch(value) or hasattr(value, "__array__"):
            arrays.append((name, value))
        elif isinstance(value, list | tuple) and len(mapping) == 1 and value and isinstance(value[0], Mapping):
            arrays += _flatten_mapping(value[0], f"{name}.")
        elif isinstance(value, list | tuple):
            arrays += _flatten_mapping(dict(enumerate(value)), f"{name}.")
    return arrays


def _flatten_pytree(target: Any) -> dict[str, Any] | None:
    """Map the path of each array in a pytree (a TrainState, an nnx or Equinox module, a list) to the array.

    None if JAX is not loaded, for a mapping, and for objects that are not pytrees of arrays. Optimizer state is left
    out.
    """
    jax, nnx = sys.modules.get("jax"), sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(target, nnx.Module | nnx.State):
        target = nnx.to_pure_dict(nnx.state(target) if isinstance(target, nnx.Module) else target)
    elif jax is None or isinstance(target, Mapping | np.ndarray | str | bytes) or _is_torch(target):
        return None
    assert jax is not None  # flax imports jax
    leaves, _ = jax.tree_util.tree_flatten_with_path(target)
    leaf_by_path: dict[str, Any] = {}
    for path, leaf in leaves:
        path_keys = [str(getattr(step, "key", getattr(step, "name", getattr(step, "idx", step)))) for step in path]
        if not isinstance(leaf, np.ndarray | jax.Array) or not JAX_OPTIMIZER_KEYS.isdisjoint(path_keys):
            continue
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
            continue  # PRNG keys
        leaf_by_path[".".join(path_keys) or "array"] = leaf
    return leaf_by_path or None


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _describe_array(name: str, value: Any) -> TensorInfo:
    if _is_torch(value):
        from layerscope.sources.readers.torch_tensor import describe_tensor

        return describe_tensor(name, value)
    array = np.asarray(value)
    return TensorInfo(name, array.shape, array.dtype.name)


def _to_array(value: Any) -> Array:
    if _is_torch(value):
        from layerscope.sources.readers.torch_tensor import to_numpy

        return to_numpy(value)
    return np.asarray(value)
