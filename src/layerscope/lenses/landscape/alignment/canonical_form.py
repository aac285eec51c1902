"""Canonical form of a model's weights, with the scale symmetries removed.

Two rescalings leave the function unchanged. A filter before a batch norm can have any scale, because the norm divides
it out. A unit between two layers, with only ReLUs and pools in between, can have its incoming weights divided and its
outgoing weights multiplied by the same factor. The canonical form scales all such filters and units to norm 1. The
norm's ε makes the first rescaling inexact. Units with a non-homogeneous activation (GELU, tanh) are left unchanged.
Sources: Dinh et al., ICML 2017; Li et al., NeurIPS 2018.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.lenses.landscape.alignment.hidden_units import Group, Place
from layerscope.lenses.landscape.alignment.permutation_groups import trace_groups
from layerscope.lenses.landscape.alignment.weight_matching import TRACED_EXAMPLES, copy_without_gradients
from layerscope.lenses.landscape.evaluation.batch_norm import BatchNorms
from layerscope.live.outputs import run_model
from layerscope.live.torch_models import unwrapped
from layerscope.live.user_code import Forward, translate_errors
from layerscope.sources.model_weights import RUNNING_STATISTICS, Weights, load_into, weights_of

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats


MAX_RELATIVE_CHANGE = 1e-2  # output change, relative to the spread, that the ε of batch norms may cause


def canonical(model: Any, weights: Any, x: Any, *, forward: Forward | None = None) -> dict[str, Array]:
    """Rescale weights to their canonical form, which computes the same function with every free scale set to norm 1.

    :param model: a module of the architecture; a copy of it is run on ``x``.
    :param weights: the weights to rescale: a live model, a file, or arrays by name.
    :param x: a batch of inputs; the first few examples are used.
    :param forward: function (model, x) → output, if calling ``model(x)`` is not enough.
    :return: rescaled arrays by name.
    """
    model = unwrapped(model)
    scaled = {name: np.asarray(value).copy() for name, value in weights_of(weights).items()}
    outputs = _Outputs(copy_without_gradients(model), x[:TRACED_EXAMPLES], forward)
    original_output = outputs(scaled)
    for group in trace_groups(model, x[:TRACED_EXAMPLES], forward):
        rescalings = [partial(_rescale_before_norm, filters=place, group=group) for place in group.before_norm]
        if group.homogeneous and not group.before_norm and not group.fixed and len(group.outputs) == 1:
            rescalings.append(partial(_rescale_between_layers, group=group))
        for rescale in rescalings:
            trial = dict(scaled)
            rescale(trial)
            if _is_same_function(original_output, outputs(trial)):  # another layer may need the scale
                scaled = trial
    return scaled


class _Outputs:
    """Computes a network's outputs for given weights, with batch-norm statistics taken from the inputs."""

    def __init__(self, network: Any, x: Any, forward: Forward | None) -> None:
        self._network, self._x, self._forward = network, x, forward

    def __call__(self, weights: Weights) -> Any:
        import torch

        load_into(self._network, weights)
        with torch.no_grad(), translate_errors("the model"), BatchNorms(self._network).training(0.0):
            return run_model(self._network, self._x, self._forward)


def _is_same_function(before: Any, after: Any) -> bool:
    """Whether two outputs differ only by rounding and by the ε of batch norms."""
    spread = (before - before.mean(0)).abs().max() if len(before) > 1 else before.abs().max()
    return bool((before - after).abs().max() <= MAX_RELATIVE_CHANGE * spread.clamp(min=1e-12))


def _rescale_before_norm(weights: dict[str, Array], filters: Place, group: Group) -> None:
    """Divide each filter by its norm, and adjust the running statistics of the batch norm that follows."""
    length = _lengths(weights, filters)
    bias = f"{filters.tensor.rpartition('.')[0]}.bias"
    for place in group.places:
        if place is filters or place.tensor == bias:
            _scale(weights, place, 1 / length)
        elif place.tensor.endswith(RUNNING_STATISTICS) and len(group.outputs) == 1:
            # With several norms the owner of each statistic is unknown here, but evaluation recomputes them anyway.
            _scale(weights, place, 1 / length if place.tensor.endswith("mean") else 1 / length**2)


def _rescale_between_layers(weights: dict[str, Array], group: Group) -> None:
    """Divide each unit's incoming weights and bias by their norm, and multiply its outgoing weights by it."""
    output = group.outputs[0]
    incoming = [output, *(p for p in group.places if p.tensor == f"{output.tensor.rpartition('.')[0]}.bias")]
    outgoing = [place for place in group.places if place not in incoming]
    if not outgoing or any(weights[place.tensor].ndim < 2 for place in outgoing):
        return
    length = _lengths(weights, output)
    for place in incoming:
        _scale(weights, place, 1 / length)
    for place in outgoing:
        _scale(weights, place, length)


def _lengths(weights: Weights, place: Place) -> Floats:
    """Norm of each unit's weights, or 1 for units with only zero weights."""
    rows = np.moveaxis(np.asarray(weights[place.tensor], np.float64), place.axis, 0)[place.index]
    length = np.sqrt(np.square(rows.reshape(len(place.index), -1)).sum(1))
    return np.asarray(np.where(length > 0, length, 1.0))


def _scale(weights: dict[str, Array], place: Place, factors: Floats) -> None:
    tensor = weights[place.tensor]
    factor_by_entry = np.ones(tensor.shape[place.axis])
    factor_by_entry[place.index] = factors[:, None]
    shape = [1] * tensor.ndim
    shape[place.axis] = -1
    weights[place.tensor] = (tensor * factor_by_entry.reshape(shape)).astype(tensor.dtype)
