"""Permutation alignment: permute the hidden units of one model so that it is as close as possible to another.

Weight matching uses coordinate descent: given the permutations of all other groups, the best permutation of one group
is a linear assignment problem (Ainsworth, Hayase & Srinivasa, ICLR 2023, "Git Re-Basin"). Groups are visited in the
order in which the data reach them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.choices import ALIGNMENT_METHODS
from layerscope.errors import UnknownName, Unreadable, UsageError
from layerscope.lenses.landscape.alignment.hidden_units import Group, Place
from layerscope.lenses.landscape.alignment.permutation_groups import trace_groups
from layerscope.live.outputs import run_model
from layerscope.live.torch_models import unwrapped
from layerscope.live.user_code import Forward, torch_parameters, translate_errors
from layerscope.records.landscape.distances import Alignment
from layerscope.sources.model_weights import (
    Weights,
    check_same_tensors,
    load_into,
    trainable_names,
    weights_of_all,
)

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats, Ints

MAX_SWEEPS = 100  # limit on sweeps of coordinate descent over all groups
TRACED_EXAMPLES = 8  # examples in the run that traces the groups
FLOAT64_TOLERANCE = 1e-6  # output change, relative to the spread, that float64 rounding can cause
FLOAT32_TOLERANCE = 1e-4  # the same for models that run only in float32


def align(
    model: Any, a: Any, b: Any, x: Any = None, *, method: str = "weights", restarts: int = 0, seed: int = 0,
    forward: Forward | None = None, groups: Sequence[Mapping[str, int]] | None = None,
) -> Alignment:  # fmt: skip
    """Permute the hidden units of B so that its weights, or its activations, match A's as closely as possible.

    :param model: a module of the architecture; a copy of it is run once. Units that cannot be traced keep their order.
        Pass None for models of other frameworks; then ``groups`` is required and the outputs of B are not checked.
    :param a, b: the models: live, files, or arrays by name.
    :param x: a batch of inputs, used to trace the units, to check that the outputs of B are unchanged, and to match
        activations.
    :param method: "weights" maximizes the inner product of the weights; "activations" maximizes the correlation of the
        units' outputs over ``x``.
    :param restarts: number of additional descents from random permutations; the best result is returned.
    :param seed: seed for the random permutations.
    :param forward: function (model, x) → output, if calling ``model(x)`` is not enough.
    :param groups: groups of axes that share their units, instead of traced ones. Each group maps tensor names to axes,
        e.g. {"fc1.weight": 0, "fc1.bias": 0, "fc2.weight": 1}.
    :raises UsageError: if the models have different tensors, or an argument is invalid.
    :raises Unreadable: if the model raises an exception.
    """
    if method not in ALIGNMENT_METHODS:
        raise UnknownName("alignment method", method, ALIGNMENT_METHODS)
    _check_arguments(model, x, restarts, groups, method)
    weights_a, weights_b = weights_of_all((a, b))
    check_same_tensors([weights_a, weights_b], ["A", "B"])
    for name, weights in (("A", weights_a), ("B", weights_b)):
        bad = next((key for key, value in weights.items() if not np.isfinite(value).all()), None)
        if bad is not None:
            raise UsageError(
                f"align: {bad} of model {name} contains NaN or infinity; only finite weights can be aligned"
            )
    network = None if model is None else copy_without_gradients(unwrapped(model))
    if groups is None:
        all_groups = trace_groups(network, x[:TRACED_EXAMPLES], forward)
    else:
        all_groups = [_group_from_axes(axes, weights_a) for axes in groups]
    for group in all_groups:
        absent = [place.tensor for place in group.places if place.tensor not in weights_a]
        group.fixed = group.fixed or (f"{absent[0]} is not among the weights" if absent else "")
    free = [group for group in all_groups if not group.fixed]

    def run(net: Any, inputs: Any) -> Any:
        return run_model(net, inputs, forward)

    if method == "activations":
        orders = _match_activations(network, weights_a, weights_b, x, free, run)
    else:
        orders = _match_weights(_trainable_only(weights_a), _trainable_only(weights_b), free, restarts, seed)
    permuted = permute(weights_b, free, orders)
    change = math.nan if network is None else _relative_output_change(network, weights_b, permuted, x, run)
    if network is not None and not change <= FLOAT64_TOLERANCE:
        raise UsageError(
            f"align: permuting B changed its outputs by {change:.1e} of their spread, so the traced units are wrong; "
            "name them with groups="
        )
    return Alignment(
        permuted, tuple(orders), len(free), tuple(sorted({group.fixed for group in all_groups if group.fixed})),
        _distance(weights_a, weights_b), _distance(weights_a, permuted), change, method,
    )  # fmt: skip


def _trainable_only(weights: Weights) -> Weights:
    return {name: weights[name] for name in trainable_names(weights)}


def _check_arguments(model: Any, x: Any, restarts: Any, groups: Any, method: str) -> None:
    """
    :raises UsageError: if x is not a tensor, restarts is not a count, or groups is not a list of mappings.
    """
    if model is None:
        if groups is None or method != "weights":
            raise UsageError(
                'model=None: align needs groups= and method="weights", because only a torch module can be run'
            )
    else:
        torch_parameters(model)
        if not hasattr(x, "is_floating_point") or not x.dim() or not len(x):
            is_tensor = hasattr(x, "is_floating_point")
            found = f"a tensor of shape {tuple(x.shape)}" if is_tensor else f"of type {type(x).__name__}"
            raise UsageError(f"x is {found}: pass a torch tensor with at least one example (forward= can convert it)")
    if not isinstance(restarts, int) or restarts < 0:
        raise UsageError(f"restarts={restarts!r}: it must be an integer, 0 or more")
    if groups is not None and (isinstance(groups, Mapping) or not all(isinstance(g, Mapping) for g in groups)):
        raise UsageError(
            f"groups is a {type(groups).__name__}: pass a list of mappings from tensor name to axis, e.g. "
            '[{"fc1.weight": 0, "fc2.weight": 1}]'
        )


def permute(weights: Weights, groups: Sequence[Group], orders: Sequence[Ints]) -> dict[str, Array]:
    """Return the weights with the units of each group in a new order."""
    permuted = dict(weights)
    for group, order in zip(groups, orders, strict=True):
        for place in group.places:
            if place.tensor in permuted:
                permuted[place.tensor] = _permute_place(permuted[place.tensor], place, order)
    return permuted


def _permute_place(tensor: Array, place: Place, order: Ints) -> Array:
    """Reorder the entries of one axis so that its units are in the given order."""
    index = np.arange(tensor.shape[place.axis])
    index[place.index.reshape(-1)] = place.index[order].reshape(-1)
    return np.take(tensor, index, place.axis)


def _group_from_axes(axes: Mapping[str, int], weights: Weights) -> Group:
    """Build a group from user-specified axes.

    :raises UsageError: if a tensor or axis does not exist, or the axes have no common number of units.
    """
    unknown = [name for name, axis in axes.items() if name not in weights or axis not in range(weights[name].ndim)]
    if unknown or not axes:
        if not unknown:
            raise UsageError('groups contains an empty group: each needs at least one axis, e.g. {"fc1.weight": 0}')
        raise UsageError(
            f"groups: there is no tensor {unknown[0]!r} with an axis {axes[unknown[0]]!r}; give {{tensor: axis}}"
        )
    sizes = {name: weights[name].shape[axis] for name, axis in axes.items()}
    units = min(sizes.values())
    if any(size % units for size in sizes.values()):
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UsageError(f"groups: each axis size must be a multiple of the {units} units of its group: {listed}")
    places = [Place(name, axis, np.arange(sizes[name]).reshape(units, -1)) for name, axis in axes.items()]
    outputs = [place for place in places if place.axis == 0 and weights[place.tensor].ndim > 1]
    return Group(units, places, outputs[:1])


def _match_weights(a: Weights, b: Weights, groups: Sequence[Group], restarts: int, seed: int) -> list[Ints]:
    rng = np.random.default_rng(seed)
    best: tuple[float, list[Ints]] | None = None
    for attempt in range(restarts + 1):
        orders = [np.arange(group.units) if not attempt else rng.permutation(group.units) for group in groups]
        gain = _descend(a, b, groups, orders, range(len(groups)))
        if best is None or gain > best[0]:
            best = gain, orders
    assert best is not None
    return best[1]


def _descend(a: Weights, b: Weights, groups: Sequence[Group], orders: list[Ints], free: Sequence[int]) -> float:
    """Sweep over the free groups until no permutation changes, and return the inner product ⟨A, PB⟩ reached."""
    matching = _Matching(a, b, groups, orders)
    total = 0.0
    for _ in range(MAX_SWEEPS):
        changed, total = False, 0.0
        for number in free:
            improved, value = matching.improve(number)
            changed, total = changed or improved, total + value
        if not changed:
            break
    return total


class _Matching:
    """The orders of all groups, improved one group at a time."""

    def __init__(self, a: Weights, b: Weights, groups: Sequence[Group], orders: list[Ints]) -> None:
        self.a, self.b, self.groups, self.orders = a, b, groups, orders
        self.places_by_tensor: dict[str, list[tuple[int, Place]]] = {}  # tensor → (group number, place)
        for number, group in enumerate(groups):
            for place in group.places:
                if place.tensor in a:
                    self.places_by_tensor.setdefault(place.tensor, []).append((number, place))

    def improve(self, number: int) -> tuple[bool, float]:
        """Give a group its best order for the orders of the others; return (has it changed, inner product)."""
        from scipy.optimize import linear_sum_assignment

        group, old = self.groups[number], self.orders[number]
        own = [place for place in group.places if place.tensor in self.a]
        recurrent = {
            place.tensor for place in own if sum(n == number for n, _ in self.places_by_tensor[place.tensor]) > 1
        }
        score = self._score(number, [place for place in own if place.tensor not in recurrent])
        candidates = [linear_sum_assignment(score, maximize=True)[1]]
        before = float(score[np.arange(group.units), old].sum())
        if not recurrent:
            after = float(score[np.arange(group.units), candidates[0]].sum())
        else:  # both axes of a tensor are these units: the score is linear only around the present order
            around = score + self._score(number, [place for place in own if place.tensor in recurrent])
            candidates.append(linear_sum_assignment(around, maximize=True)[1])
            before = self._inner_product(number, old)
            values = [self._inner_product(number, order) for order in candidates]
            after, candidates = max(values), [candidates[int(np.argmax(values))]]
        if after > before + 1e-12 * abs(before):
            self.orders[number] = candidates[0]
            return True, after
        return False, before

    def _score(self, number: int, places: Sequence[Place]) -> Floats:
        """Entry (i, j): what the inner product gains if unit i of A is matched with unit j of B."""
        group = self.groups[number]
        score = np.zeros((group.units, group.units))
        for place in places:
            permuted = self._permuted(place.tensor, self.orders, place)
            score += _rows_by_unit(self.a[place.tensor], place) @ _rows_by_unit(permuted, place).T
        return score

    def _inner_product(self, number: int, order: Ints) -> float:
        """⟨A, PB⟩ over the tensors that have units of the group."""
        orders = [*self.orders]
        orders[number] = order
        tensors = dict.fromkeys(place.tensor for place in self.groups[number].places if place.tensor in self.a)
        return sum(float(np.vdot(self.a[name].astype(np.float64), self._permuted(name, orders))) for name in tensors)

    def _permuted(self, tensor: str, orders: Sequence[Ints], without: Place | None = None) -> Array:
        permuted: Array = self.b[tensor]
        for number, place in self.places_by_tensor[tensor]:
            if place is not without:
                permuted = _permute_place(permuted, place, orders[number])
        return permuted


def _rows_by_unit(tensor: Array, place: Place) -> Floats:
    """Return the entries of a place as a matrix with one row per unit."""
    rows = np.moveaxis(np.asarray(tensor, np.float64), place.axis, 0)[place.index]
    return np.asarray(rows.reshape(len(place.index), -1))


def _match_activations(
    network: Any, a: Weights, b: Weights, x: Any, groups: Sequence[Group], run: Forward
) -> list[Ints]:
    """Match units by the correlation of their outputs (Li et al. 2016), or by weights if no module outputs them."""
    from scipy.optimize import linear_sum_assignment

    activations_a, activations_b = (_unit_outputs(network, weights, x, groups, run) for weights in (a, b))
    orders, unmatched = [np.arange(group.units) for group in groups], []
    for number, (rows_a, rows_b) in enumerate(zip(activations_a, activations_b, strict=True)):
        if rows_a is None or rows_b is None:
            unmatched.append(number)
            continue
        _, orders[number] = linear_sum_assignment(_standardize(rows_a).T @ _standardize(rows_b), maximize=True)
    _descend(_trainable_only(a), _trainable_only(b), groups, orders, unmatched)
    return orders


def _unit_outputs(network: Any, weights: Weights, x: Any, groups: Sequence[Group], run: Forward) -> list[Floats | None]:
    """Return the unit outputs of each group as (rows, units); examples, positions and entries of a unit are rows."""
    import torch

    output_by_module: dict[str, Any] = {}
    names = {place.tensor.rpartition(".")[0] for group in groups for place in group.outputs}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: output_by_module.update({name: out}))
        for name, module in network.named_modules()
        if name in names
    ]
    try:
        load_into(network, weights)
        with torch.no_grad(), translate_errors("the model"):
            run(network, x)
    finally:
        for handle in handles:
            handle.remove()
    rows: list[Floats | None] = []
    for group in groups:
        parts = []
        for place in group.outputs:
            out, dims = output_by_module.get(place.tensor.rpartition(".")[0]), weights[place.tensor].ndim
            if not isinstance(out, torch.Tensor) or out.is_nested:
                continue
            out = out if dims == 2 else out.movedim(1, -1)
            if weights[place.tensor].shape[place.axis] == out.shape[-1]:
                index = torch.from_numpy(place.index)
                parts.append(out[..., index].movedim(-1, -2).reshape(-1, group.units).double().cpu().numpy())
        rows.append(np.concatenate(parts) if parts else None)
    return rows


def _standardize(rows: Floats) -> Floats:
    centered = rows - rows.mean(0) if len(rows) else rows
    spread = np.sqrt(np.square(centered).sum(0))
    return np.asarray(centered / np.where(spread > 0, spread, 1.0))


def _relative_output_change(network: Any, before: Weights, after: Weights, x: Any, run: Forward) -> float:
    """Largest output change relative to its spread; float32 results are scaled to the float64 tolerance."""
    import torch

    x = x.double() if x.is_floating_point() else x
    try:
        old, new = _outputs_with_both(network.double(), before, after, x, run)
    except Unreadable:  # the model converts to float32 itself
        x = x.float() if x.is_floating_point() else x
        old, new = _outputs_with_both(network.float(), before, after, x, run)
    spread = (old - old.mean(0)).abs().max() if len(old) > 1 else old.abs().max()
    min_spread = 1e-3 * old.abs().max()  # in case all inputs are equal
    change = (old - new).abs().max() / torch.maximum(spread, min_spread).clamp(min=1e-12)
    return float(change) if old.dtype == torch.float64 else float(change) * FLOAT64_TOLERANCE / FLOAT32_TOLERANCE


def _outputs_with_both(network: Any, before: Weights, after: Weights, x: Any, run: Forward) -> tuple[Any, Any]:
    """Run the network with each set of weights and return both outputs."""
    import torch

    outputs = []
    with torch.no_grad(), translate_errors("the model"):
        for weights in (before, after):
            load_into(network, weights)
            outputs.append(run(network, x))
    return outputs[0], outputs[1]


def copy_without_gradients(model: Any) -> Any:
    """Copy a model in evaluation mode with gradients disabled."""
    import copy

    with translate_errors("copying the model"):
        return copy.deepcopy(model).eval().requires_grad_(False)


def _distance(a: Weights, b: Weights) -> float:
    return float(np.sqrt(sum(float(np.square(a[k].astype(np.float64) - b[k]).sum()) for k in trainable_names(a))))
