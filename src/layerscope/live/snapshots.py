"""Copies, restores and compares the weights of a live model of any framework."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from layerscope.live.user_code import translate_errors


def copy_model(model: Any) -> Any:
    """Return a copy of the model with its current weights; a container of arrays (as in JAX) is copied itself."""
    if hasattr(model, "get_weights") and hasattr(model, "weights"):
        import keras

        with translate_errors("copying the model"):
            copied = keras.models.clone_model(model)
            copied.set_weights(model.get_weights())
        return copied
    if hasattr(model, "state_dict"):
        with translate_errors("copying the model"):
            return copy.deepcopy(model)
    return copy_state(model)


def copy_state(model: Any) -> Any:
    """Copy the weights, for :func:`restore_state`."""
    if hasattr(model, "state_dict"):
        return {name: _copy_value(value) for name, value in model.state_dict().items()}
    return [w.copy() for w in model.get_weights()] if hasattr(model, "get_weights") else _copy_value(model)


def _copy_value(value: Any) -> Any:
    """Copy a value, so that a training loop that changes it in place or donates its memory leaves the copy alone."""
    if hasattr(value, "detach"):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return type(value)({key: _copy_value(item) for key, item in value.items()})  # type: ignore[call-arg]
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_copy_value(item) for item in value)
    if hasattr(value, "__array__") and hasattr(value, "dtype"):
        return np.array(value)
    with translate_errors("copying the weights"):
        return copy.deepcopy(value)


def restore_state(model: Any, weights: Any) -> Any:
    """Load these weights into the model and return it; if the model is a container of arrays, return the weights."""
    if hasattr(model, "state_dict"):
        model.load_state_dict(weights)
    elif hasattr(model, "set_weights"):
        model.set_weights(weights)
    else:
        return weights
    return model


def copy_learned_tensors(model: Any) -> dict[str, Any]:
    """Return float32 copies of the trained tensors, by name."""
    from layerscope.sources.model_weights import trainable_names, weights_of

    weights = weights_of(model)
    return {name: np.array(weights[name], np.float32) for name in trainable_names(weights)}


def distance(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Return the l2 distance over all tensors that exist in both with the same shape."""
    common = [name for name in a if name in b and a[name].shape == b[name].shape]
    return math.sqrt(sum(float(np.square(a[name].astype(np.float64) - b[name]).sum()) for name in common))
