"""Hidden units of one model in the order that fits another: the same function, as near as its units allow.

Weight matching by coordinate descent: each group's best permutation, given those of the others, is a linear assignment
(Ainsworth, Hayase & Srinivasa, ICLR 2023, "Git Re-Basin"). Groups are taken in the order in which data meet them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UnknownName, UsageError
from layerscope.landscape._groups import Group, Place, groups_of
from layerscope.landscape.weights import Weights, check_alike, learned_of, weights_of
from layerscope.sources._strangers import parameters, told

if TYPE_CHECKING:
    from layerscope.types import Array, Floats, Ints

METHODS = ("weights", "activations")
SWEEPS = 100  # at most
TOLERANCE = 1e-6  # change of the output, over its spread, that rounding in float64 explains


@dataclass(frozen=True, eq=False)
class Alignment:
    """B with its units in A's order."""

    weights: Mapping[str, Array]  # of B, permuted
    permutations: tuple[Ints, ...]  # of each group that is free, new order of B's units
    groups: int  # that were permuted
    fixed: tuple[str, ...]  # why others could not be
    before: float  # ‖A − B‖ over the learned tensors
    after: float  # ‖A − PB‖
    output_change: float  # largest |f(PB) − f(B)| over the largest |f(B)|: rounding
    method: str

    def __repr__(self) -> str:
        fixed = f", {len(self.fixed)} fixed" if self.fixed else ""
        moved = f"distance {self.before:.4g} → {self.after:.4g}, output changed by {self.output_change:.1e}"
        return f"aligned by {self.method}: {self.groups} groups{fixed}; {moved}"


def align(
    model: Any, a: Any, b: Any, x: Any, *, method: str = "weights", restarts: int = 0, seed: int = 0
) -> Alignment:
    """Permute the hidden units of B so that its weights, or its activations, are nearest to A's.

    :param model: a live module of the architecture, which is run once; units behind what is not understood stay.
    :param a, b: models: live, files, or arrays by name.
    :param x: a few inputs: for that run, for the check that B computes the same, and for "activations".
    :param restarts: more descents from random orders; the best is kept.
    :raises UsageError: models of different kinds, an unknown method.
    :raises Unreadable: the model raises.
    """
    parameters(model)
    if method not in METHODS:
        raise UnknownName("method of alignment", method, METHODS)
    one, other = weights_of(a), weights_of(b)
    check_alike([one, other], ["A", "B"])
    for name, weights in (("A", one), ("B", other)):
        bad = next((key for key, value in weights.items() if not np.isfinite(value).all()), None)
        if bad is not None:
            raise UsageError(f"{bad} of {name} has values that are not finite")
    network = copied(model)
    groups = groups_of(network, x[:2])
    free = [group for group in groups if not group.fixed]
    if method == "activations":
        orders = _by_activations(network, one, other, x, free)
    else:
        learned = learned_of(one)
        orders = _by_weights({k: one[k] for k in learned}, {k: other[k] for k in learned}, free, restarts, seed)
    permuted = permute(other, free, orders)
    change = _change(network, other, permuted, x)
    if not change <= TOLERANCE:
        raise UsageError(f"permuted, B computes something else (by {change:.1e}): its groups were not understood")
    return Alignment(
        permuted, tuple(orders), len(free), tuple(sorted({g.fixed for g in groups if g.fixed})),
        _distance(one, other), _distance(one, permuted), change, method,
    )  # fmt: skip


def permute(weights: Weights, groups: Sequence[Group], orders: Sequence[Ints]) -> dict[str, Array]:
    """The same weights with the units of each group in a new order."""
    found = dict(weights)
    for group, order in zip(groups, orders, strict=True):
        for place in group.places:
            if place.tensor in found:
                found[place.tensor] = _taken(found[place.tensor], place, group.units, order)
    return found


def _taken(tensor: Array, place: Place, units: int, order: Ints) -> Array:
    """Blocks of one axis in another order."""
    blocks = tensor.reshape(*tensor.shape[: place.axis], units, -1, *tensor.shape[place.axis + 1 :])
    return np.ascontiguousarray(np.take(blocks, order, place.axis).reshape(tensor.shape))


def _by_weights(a: Weights, b: Weights, groups: Sequence[Group], restarts: int, seed: int) -> list[Ints]:
    rng = np.random.default_rng(seed)
    best: tuple[float, list[Ints]] | None = None
    for attempt in range(restarts + 1):
        orders = [np.arange(group.units) if not attempt else rng.permutation(group.units) for group in groups]
        gain = _descend(a, b, groups, orders)
        if best is None or gain > best[0]:
            best = gain, orders
    assert best is not None
    return best[1]


def _descend(a: Weights, b: Weights, groups: Sequence[Group], orders: list[Ints]) -> float:
    """Sweeps over the groups until none changes; the inner product ⟨A, PB⟩ of all places that was reached."""
    from scipy.optimize import linear_sum_assignment

    others: dict[str, list[tuple[int, Place]]] = {}
    for number, group in enumerate(groups):
        for place in group.places:
            others.setdefault(place.tensor, []).append((number, place))
    total = 0.0
    for _ in range(SWEEPS):
        changed, total = False, 0.0
        for number, group in enumerate(groups):
            score = np.zeros((group.units, group.units))
            for place in group.places:
                if place.tensor not in a:
                    continue
                moved = b[place.tensor]
                for each, where in others[place.tensor]:
                    if each != number:
                        moved = _taken(moved, where, groups[each].units, orders[each])
                score += _rows(a[place.tensor], place, group.units) @ _rows(moved, place, group.units).T
            _, order = linear_sum_assignment(score, maximize=True)
            before = float(score[np.arange(group.units), orders[number]].sum())
            after = float(score[np.arange(group.units), order].sum())
            if after > before + 1e-12 * abs(before):
                orders[number], changed = order, True
            total += max(before, after)
        if not changed:
            break
    return total


def _rows(tensor: Array, place: Place, units: int) -> Floats:
    """A row per unit."""
    wide = np.moveaxis(np.asarray(tensor, np.float64), place.axis, 0)
    rest = wide.shape[1:]
    return np.asarray(wide.reshape(units, -1, *rest).reshape(units, -1))


def _by_activations(network: Any, a: Weights, b: Weights, x: Any, groups: Sequence[Group]) -> list[Ints]:
    """Units whose outputs are most correlated over the inputs (Li et al. 2016)."""
    from scipy.optimize import linear_sum_assignment

    seen = [_outputs(network, weights, x, groups) for weights in (a, b)]
    orders = []
    for number, group in enumerate(groups):
        one, other = (_standardised(found[number]) for found in seen)
        _, order = linear_sum_assignment(one.T @ other, maximize=True)
        orders.append(np.asarray(order) if len(one) else np.arange(group.units))
    return orders


def _outputs(network: Any, weights: Weights, x: Any, groups: Sequence[Group]) -> list[Floats]:
    """(rows, units) of each group: outputs of the modules that make it, positions as rows."""
    import torch

    found: dict[str, Any] = {}
    names = {name.rpartition(".")[0] for group in groups for name in group.outputs}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: found.update({name: out}))
        for name, module in network.named_modules()
        if name in names
    ]
    try:
        _load(network, weights)
        with torch.no_grad(), told("the model"):
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    rows = []
    for group in groups:
        made = [(found.get(name.rpartition(".")[0]), weights[name].ndim) for name in group.outputs]
        flat = [
            (out if axes == 2 else out.movedim(1, -1)).reshape(-1, group.units)
            for out, axes in made
            if out is not None and out.shape[-1 if axes == 2 else 1] == group.units
        ]
        rows.append(torch.cat(flat).double().cpu().numpy() if flat else np.zeros((0, group.units)))
    return rows


def _standardised(rows: Floats) -> Floats:
    centred = rows - rows.mean(0) if len(rows) else rows
    spread = np.sqrt(np.square(centred).sum(0))
    return np.asarray(centred / np.where(spread > 0, spread, 1.0))


def _change(network: Any, before: Weights, after: Weights, x: Any) -> float:
    import torch

    network, x = network.double(), x.double() if x.is_floating_point() else x
    with torch.no_grad(), told("the model"):
        _load(network, before)
        one = network(x)
        _load(network, after)
        other = network(x)
    spread = (one - one.mean(0)).abs().max() if len(one) > 1 else one.abs().max()
    return float((one - other).abs().max() / spread.clamp(min=1e-12))


def _load(network: Any, weights: Weights) -> None:
    import torch

    state = network.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            if name in state:
                state[name].copy_(torch.from_numpy(np.array(value)))


def copied(model: Any) -> Any:
    import copy

    return copy.deepcopy(model).eval().requires_grad_(False)


def _distance(a: Weights, b: Weights) -> float:
    return float(np.sqrt(sum(float(np.square(a[k].astype(np.float64) - b[k]).sum()) for k in learned_of(a))))
