"""Hidden units of one model in the order that fits another: the same function, as near as its units allow.

Weight matching by coordinate descent: each group's best permutation, given those of the others, is a linear assignment
(Ainsworth, Hayase & Srinivasa, ICLR 2023, "Git Re-Basin"). Groups are taken in the order in which data meet them.
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
from layerscope.live.torch_models import unwrapped
from layerscope.live.user_code import Forward, torch_parameters, translate_errors
from layerscope.records.landscape.distances import Alignment
from layerscope.sources.model_weights import Weights, check_same_tensors, load_into, trainable_names, weights_of

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats, Ints

MAX_SWEEPS = 100  # of coordinate descent over all groups
TRACED_EXAMPLES = 8  # of the run in which groups are traced
FLOAT64_TOLERANCE = 1e-6  # change of the output, over its spread, that rounding in float64 explains
FLOAT32_TOLERANCE = 1e-4  # the same in float32, where a model cannot be run in float64


def align(
    model: Any, a: Any, b: Any, x: Any = None, *, method: str = "weights", restarts: int = 0, seed: int = 0,
    forward: Forward | None = None, groups: Sequence[Mapping[str, int]] | None = None,
) -> Alignment:  # fmt: skip
    """Permute the hidden units of B so that its weights, or its activations, are nearest to A's.

    :param model: a live module of the architecture, which is run once; units behind what is not understood stay. None
        for models of other frameworks: then ``groups`` are needed, and that B computes the same is not checked.
    :param a, b: models: live, files, or arrays by name.
    :param x: a few inputs: for that run, for the check that B computes the same, and for "activations".
    :param restarts: more descents from random orders; the best is kept.
    :param forward: (model, x) → output, where it is not ``model(x)``.
    :param groups: of axes that one set of units numbers, where you know better than the trace: of each, the axis by the
        tensor's name, {"fc1.weight": 0, "fc1.bias": 0, "fc2.weight": 1}.
    :raises UsageError: models of different kinds, an unknown method.
    :raises Unreadable: the model raises.
    """
    if method not in ALIGNMENT_METHODS:
        raise UnknownName("method of alignment", method, ALIGNMENT_METHODS)
    _check_arguments(model, x, restarts, groups, method)
    weights_a, weights_b = weights_of(a), weights_of(b)
    check_same_tensors([weights_a, weights_b], ["A", "B"])
    for name, weights in (("A", weights_a), ("B", weights_b)):
        bad = next((key for key, value in weights.items() if not np.isfinite(value).all()), None)
        if bad is not None:
            raise UsageError(f"{bad} of {name} has values that are not finite")
    network = None if model is None else copy_without_gradients(unwrapped(model))
    if groups is None:
        all_groups = trace_groups(network, x[:TRACED_EXAMPLES], forward)
    else:
        all_groups = [_group_from_axes(axes, weights_a) for axes in groups]
    for group in all_groups:
        absent = [place.tensor for place in group.places if place.tensor not in weights_a]
        group.fixed = group.fixed or (f"{absent[0]} is not among the weights" if absent else "")
    free = [group for group in all_groups if not group.fixed]
    run = forward or (lambda net, inputs: net(inputs))
    if method == "activations":
        orders = _match_activations(network, weights_a, weights_b, x, free, run)
    else:
        orders = _match_weights(_trainable_only(weights_a), _trainable_only(weights_b), free, restarts, seed)
    permuted = permute(weights_b, free, orders)
    change = math.nan if network is None else _relative_output_change(network, weights_b, permuted, x, run)
    if network is not None and not change <= FLOAT64_TOLERANCE:
        raise UsageError(f"permuted, B computes something else (by {change:.1e}): its groups were not understood")
    return Alignment(
        permuted, tuple(orders), len(free), tuple(sorted({group.fixed for group in all_groups if group.fixed})),
        _distance(weights_a, weights_b), _distance(weights_a, permuted), change, method,
    )  # fmt: skip


def _trainable_only(weights: Weights) -> Weights:
    return {name: weights[name] for name in trainable_names(weights)}


def _check_arguments(model: Any, x: Any, restarts: Any, groups: Any, method: str) -> None:
    """
    :raises UsageError: inputs that are no tensor, a number of restarts that is none, groups that are no list.
    """
    if model is None:
        if groups is None or method != "weights":
            raise UsageError("without a torch module align needs groups=, and goes by weights: it sees no activations")
    else:
        torch_parameters(model)
        if not hasattr(x, "is_floating_point") or not x.dim() or not len(x):
            description = f"of {tuple(x.shape)}" if hasattr(x, "is_floating_point") else f"a {type(x).__name__}"
            raise UsageError(f"x is a torch tensor of a few inputs, not {description}: forward= may make others of it")
    if not isinstance(restarts, int) or restarts < 0:
        raise UsageError(f"restarts must be 0 or more, not {restarts!r}")
    if groups is not None and (isinstance(groups, Mapping) or not all(isinstance(g, Mapping) for g in groups)):
        raise UsageError('groups is a list, a mapping for each: [{"fc1.weight": 0, "fc2.weight": 1}]')


def permute(weights: Weights, groups: Sequence[Group], orders: Sequence[Ints]) -> dict[str, Array]:
    """The same weights with the units of each group in a new order."""
    permuted = dict(weights)
    for group, order in zip(groups, orders, strict=True):
        for place in group.places:
            if place.tensor in permuted:
                permuted[place.tensor] = _permute_place(permuted[place.tensor], place, order)
    return permuted


def _permute_place(tensor: Array, place: Place, order: Ints) -> Array:
    """The entries of one axis, units in another order."""
    index = np.arange(tensor.shape[place.axis])
    index[place.index.reshape(-1)] = place.index[order].reshape(-1)
    return np.take(tensor, index, place.axis)


def _group_from_axes(axes: Mapping[str, int], weights: Weights) -> Group:
    """A group from the axes that a user names.

    :raises UsageError: no such tensor or axis, or axes that have no common number of units.
    """
    unknown = [name for name, axis in axes.items() if name not in weights or axis not in range(weights[name].ndim)]
    if unknown or not axes:
        raise UsageError(f"groups: {unknown[0]!r} has no such axis" if unknown else "a group of no axes")
    sizes = {name: weights[name].shape[axis] for name, axis in axes.items()}
    units = min(sizes.values())
    if any(size % units for size in sizes.values()):
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UsageError(f"groups: axes of one group have no common number of units: {listed}")
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
    """Sweeps over some of the groups until none changes; the inner product ⟨A, PB⟩ of their places that was reached."""
    from scipy.optimize import linear_sum_assignment

    places_by_tensor: dict[str, list[tuple[int, Place]]] = {}  # tensor → (number of the group, place)
    for number, group in enumerate(groups):
        for place in group.places:
            places_by_tensor.setdefault(place.tensor, []).append((number, place))
    total = 0.0
    for _ in range(MAX_SWEEPS):
        changed, total = False, 0.0
        for number in free:
            group = groups[number]
            score = np.zeros((group.units, group.units))
            for place in group.places:
                if place.tensor not in a:
                    continue
                permuted = b[place.tensor]
                for neighbor, neighbor_place in places_by_tensor[place.tensor]:
                    if neighbor != number:
                        permuted = _permute_place(permuted, neighbor_place, orders[neighbor])
                score += _rows_by_unit(a[place.tensor], place) @ _rows_by_unit(permuted, place).T
            _, order = linear_sum_assignment(score, maximize=True)
            before = float(score[np.arange(group.units), orders[number]].sum())
            after = float(score[np.arange(group.units), order].sum())
            if after > before + 1e-12 * abs(before):
                orders[number], changed = order, True
            total += max(before, after)
        if not changed:
            break
    return total


def _rows_by_unit(tensor: Array, place: Place) -> Floats:
    """A row per unit."""
    rows = np.moveaxis(np.asarray(tensor, np.float64), place.axis, 0)[place.index]
    return np.asarray(rows.reshape(len(place.index), -1))


def _match_activations(
    network: Any, a: Weights, b: Weights, x: Any, groups: Sequence[Group], run: Forward
) -> list[Ints]:
    """Units whose outputs are most correlated over the inputs (Li et al. 2016); by weights where no module has them."""
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
    """(rows, units) of each group: outputs of the modules that make it; positions, and entries of a unit, as rows."""
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
    """Largest change of the output over its spread; in float32 scaled so that one tolerance serves both."""
    import torch

    x = x.double() if x.is_floating_point() else x
    try:
        old, new = _outputs_with_both(network.double(), before, after, x, run)
    except Unreadable:  # a model that makes float32 of its own accord
        x = x.float() if x.is_floating_point() else x
        old, new = _outputs_with_both(network.float(), before, after, x, run)
    spread = (old - old.mean(0)).abs().max() if len(old) > 1 else old.abs().max()
    min_spread = 1e-3 * old.abs().max()  # of inputs that are all alike
    change = (old - new).abs().max() / torch.maximum(spread, min_spread).clamp(min=1e-12)
    return float(change) if old.dtype == torch.float64 else float(change) * FLOAT64_TOLERANCE / FLOAT32_TOLERANCE


def _outputs_with_both(network: Any, before: Weights, after: Weights, x: Any, run: Forward) -> tuple[Any, Any]:
    """The outputs with both weights."""
    import torch

    outputs = []
    with torch.no_grad(), translate_errors("the model"):
        for weights in (before, after):
            load_into(network, weights)
            outputs.append(run(network, x))
    return outputs[0], outputs[1]


def copy_without_gradients(model: Any) -> Any:
    """A copy in evaluation mode whose parameters need no gradients."""
    import copy

    with translate_errors("copying the model"):
        return copy.deepcopy(model).eval().requires_grad_(False)


def _distance(a: Weights, b: Weights) -> float:
    return float(np.sqrt(sum(float(np.square(a[k].astype(np.float64) - b[k]).sum()) for k in trainable_names(a))))
