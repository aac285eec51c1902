"""Change weights in place, as weightwatcher 0.7.7 does; ``layerscope.edit`` returns new weights instead."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.edit import weights as surgery
from layerscope.errors import UsageError
from layerscope.fits.fitting import fit_all
from layerscope.numerics import matrices, spectra
from layerscope.settings import Settings
from layerscope.weightwatcher.layers import Layer, is_module, stack_of
from layerscope.weightwatcher.names import AUTO, LAMBDA_MIN, RMT, SVD

if TYPE_CHECKING:
    from layerscope.array_types import Array


def truncate(target: Any, layers: Sequence[Layer], choose_count: Callable[[Array], int]) -> Any:
    """Keep only the largest singular values of each layer, or drop them.

    :param choose_count: called with a layer's stack; returns the number of largest singular values to keep, or, if
        negative, to drop; 0 leaves the layer unchanged.
    :raises UsageError: the target is neither a torch module nor a state dict.
    """
    if not (is_module(target) or isinstance(target, Mapping)):
        raise UsageError(
            f"weights of a {type(target).__name__} cannot be changed in place; give a torch module or a state dict, "
            "or use layerscope.edit, which reads files"
        )
    changed: list[tuple[Layer, Array]] = []
    visited: set[int] = set()
    for layer in layers:
        address = layer.weight.data_ptr() if hasattr(layer.weight, "data_ptr") else id(layer.weight)
        if address in visited:  # change a weight that two modules share only once
            continue
        visited.add(address)
        ref, stack = stack_of(layer)
        count = choose_count(stack)
        if count == 0:
            continue
        count_per_matrix = math.ceil(abs(count) / len(stack)) if count > 0 else abs(count) // len(stack) or 1
        change = surgery.keep_largest if count > 0 else surgery.drop_largest
        truncated = [
            change(matrix[None], count_per_matrix)[0] if count_per_matrix < matrix.shape[1] else matrix
            for matrix in stack
        ]
        changed.append((layer, matrices.fold(np.stack(truncated), ref)))
    for layer, array in changed:  # only after all succeeded: change all layers or none
        write_back(target, layer, array)
    return target


def write_back(target: Any, layer: Layer, array: Array) -> None:
    """Replace a weight in place, keeping its dtype and device."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(layer.weight, torch.Tensor):
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(array, np.float64)))
        return
    state = target["state_dict"] if isinstance(target.get("state_dict"), Mapping) else target
    state[f"{layer.longname}.weight"] = np.ascontiguousarray(array.astype(layer.array().dtype))


def count_singular_values(method: str, percent: float, stack: Array) -> int:
    """Return the number of largest singular values that a method keeps; a negative number is dropped instead."""
    if method == SVD:
        return int(percent * stack.shape[0] * stack.shape[2])
    settings, spectrum = Settings.weightwatcher(), spectra.esd(stack)
    keep = {LAMBDA_MIN: "power_law", RMT: "spikes"}.get(method, "erg")
    if method == AUTO:
        fit = fit_all(spectrum, settings, ("power_law",))["power_law"]
        keep = "spikes" if fit.ok and fit.params["alpha"] > settings.limits.under_trained else "erg"
    return surgery.tail_length(spectrum, keep, settings)
