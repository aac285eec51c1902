"""One representative of all weights that compute the same but for scale: filters before a batch norm, and units between
layers whose activations do not mind it, brought to length 1.

A filter that feeds a batch norm may be scaled as one likes, statistics being recomputed; a unit between two layers
with nothing but ReLUs and pools between them may have its incoming weights divided and its outgoing ones multiplied.
The norm's ε makes the former inexact, and nothing is done where the activation is not homogeneous (GELU, tanh).
Source: Dinh et al., ICML 2017; Li et al., NeurIPS 2018.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.lenses.landscape.alignment.hidden_units import Group, Place
from layerscope.lenses.landscape.alignment.permutation_groups import trace_groups
from layerscope.lenses.landscape.alignment.weight_matching import TRACED_EXAMPLES, copy_without_gradients
from layerscope.lenses.landscape.evaluation.batch_norm import BatchNorms
from layerscope.live.torch_models import unwrapped
from layerscope.live.user_code import Forward, translate_errors
from layerscope.sources.model_weights import RUNNING_STATISTICS, Weights, load_into, weights_of

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats


MAX_RELATIVE_CHANGE = 1e-2  # of the spread of the outputs: what the ε of norms may change


def canonical(model: Any, weights: Any, x: Any, *, forward: Forward | None = None) -> dict[str, Array]:
    """The same function with every such filter and unit at length 1; distances of two are then those of their shapes.

    :param model: a live module of the architecture, which is run once on ``x``.
    :param weights: live, a file, or arrays by name.
    :param forward: (model, x) → output, where it is not ``model(x)``.
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
            if _is_same_function(original_output, outputs(trial)):  # something else may read these units
                scaled = trial
    return scaled


class _Outputs:
    """What a network computes with some weights, batch norms taking the statistics of these inputs."""

    def __init__(self, network: Any, x: Any, forward: Forward | None) -> None:
        self._network, self._x, self._forward = network, x, forward

    def __call__(self, weights: Weights) -> Any:
        import torch

        load_into(self._network, weights)
        with torch.no_grad(), translate_errors("the model"), BatchNorms(self._network).training(0.0):
            return self._network(self._x) if self._forward is None else self._forward(self._network, self._x)


def _is_same_function(before: Any, after: Any) -> bool:
    """Are outputs the same but for rounding and the ε of norms?"""
    spread = (before - before.mean(0)).abs().max() if len(before) > 1 else before.abs().max()
    return bool((before - after).abs().max() <= MAX_RELATIVE_CHANGE * spread.clamp(min=1e-12))


def _rescale_before_norm(weights: dict[str, Array], filters: Place, group: Group) -> None:
    """A filter's length goes into the statistics of the norm behind it."""
    length = _lengths(weights, filters)
    bias = f"{filters.tensor.rpartition('.')[0]}.bias"
    for place in group.places:
        if place is filters or place.tensor == bias:
            _scale(weights, place, 1 / length)
        elif place.tensor.endswith(RUNNING_STATISTICS) and len(group.outputs) == 1:
            # of several norms it is not known here which statistics are whose; they are recomputed anyway
            _scale(weights, place, 1 / length if place.tensor.endswith("mean") else 1 / length**2)


def _rescale_between_layers(weights: dict[str, Array], group: Group) -> None:
    """Incoming weights and bias over their length, outgoing weights times it."""
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
    """Length of each unit's weights; 1 of those that are zero."""
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
