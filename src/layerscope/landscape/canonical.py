"""One representative of all weights that compute the same but for scale: filters before a batch norm, and units between
layers whose activations do not mind it, brought to length 1.

A filter that feeds a batch norm may be scaled as one likes, statistics being recomputed; a unit between two layers
with nothing but ReLUs and pools between them may have its incoming weights divided and its outgoing ones multiplied.
The norm's ε makes the former inexact, and nothing is done where the activation is not homogeneous (GELU, tanh).
Source: Dinh et al., ICML 2017; Li et al., NeurIPS 2018.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.landscape._groups import Group, Place, groups_of
from layerscope.landscape.align import copied
from layerscope.landscape.weights import STATISTICS, Weights, weights_of

if TYPE_CHECKING:
    from layerscope.types import Array, Floats


def canonical(model: Any, weights: Any, x: Any) -> dict[str, Array]:
    """The same function with every such filter and unit at length 1; distances of two are then those of their shapes.

    :param model: a live module of the architecture, which is run once on ``x``.
    :param weights: live, a file, or arrays by name.
    """
    found = {name: np.asarray(value).copy() for name, value in weights_of(weights).items()}
    for group in groups_of(copied(model), x):
        for name in group.normed:
            _normed(found, name, group)
        if group.homogeneous and not group.normed and not group.fixed and len(group.outputs) == 1:
            _between(found, group)
    return found


def _normed(weights: dict[str, Array], name: str, group: Group) -> None:
    """A filter's length goes into the statistics of the norm behind it."""
    module, statistics = name.rpartition(".")[0], [p.tensor for p in group.places if p.tensor.endswith(STATISTICS)]
    length = _lengths(weights, [Place(name, 0)], group.units)
    _scale(weights, Place(name, 0), 1 / length, group.units)
    if f"{module}.bias" in weights:
        _scale(weights, Place(f"{module}.bias", 0), 1 / length, group.units)
    if len(group.outputs) > 1:
        return  # several norms: which statistics are whose is not known here; they are recomputed anyway
    for each in statistics:
        _scale(weights, Place(each, 0), 1 / length if each.endswith("mean") else 1 / length**2, group.units)


def _between(weights: dict[str, Array], group: Group) -> None:
    """Incoming weights and bias over their length, outgoing weights times it."""
    made = {group.outputs[0], f"{group.outputs[0].rpartition('.')[0]}.bias"}
    inside = [place for place in group.places if place.tensor in made and place.axis == 0]
    outside = [place for place in group.places if place not in inside]
    if not outside or any(place.axis != 1 for place in outside):
        return
    length = _lengths(weights, [place for place in inside if place.tensor == group.outputs[0]], group.units)
    for place in inside:
        _scale(weights, place, 1 / length, group.units)
    for place in outside:
        _scale(weights, place, length, group.units)


def _lengths(weights: Weights, places: list[Place], units: int) -> Floats:
    """Length of each unit's weights; 1 of those that are zero."""
    total = np.zeros(units)
    for place in places:
        wide = np.moveaxis(np.asarray(weights[place.tensor], np.float64), place.axis, 0)
        total += np.square(wide.reshape(units, -1)).sum(1)
    return np.where(total > 0, np.sqrt(total), 1.0)


def _scale(weights: dict[str, Array], place: Place, factors: Floats, units: int) -> None:
    tensor = weights[place.tensor]
    blocks = tensor.reshape(*tensor.shape[: place.axis], units, -1, *tensor.shape[place.axis + 1 :])
    shape = [1] * blocks.ndim
    shape[place.axis] = units
    weights[place.tensor] = (blocks * factors.reshape(shape)).astype(tensor.dtype).reshape(tensor.shape)
