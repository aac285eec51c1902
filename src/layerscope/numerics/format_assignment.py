"""The cheapest assignment of formats to tensors under a budget of bits: a multiple-choice knapsack problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerscope.errors import UsageError

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

BISECTIONS = 100
MIP_SECONDS = 2.0  # after which the best assignment found so far is taken
MIP_GAP = 1e-6  # relative
TOLERANCE = 1e-9  # relative, of the budget


def assign(damages: Floats, sizes: Floats, budget: float) -> Array:
    """Return the choice of each tensor with the smallest total damage whose total size is within the budget.

    Solved exactly as an integer program; a Lagrange bisection gives the answer where the solver does not finish.

    :param damages: (tensors, choices); infinite where a choice is not possible.
    :param sizes: (tensors, choices) in any unit.
    :param budget: total size, in that unit.
    :return: index of the choice of each tensor.
    :raises UsageError: the smallest choices do not fit into the budget.
    """
    possible = np.isfinite(damages)
    smallest = np.where(possible, sizes, np.inf).min(1).sum()
    if not possible.any(1).all() or smallest > budget * (1 + TOLERANCE):
        raise UsageError(f"the smallest formats need {smallest:.4g}, more than the budget of {budget:.4g}")
    relaxed = assign_by_multiplier(damages, sizes, budget)
    exact = _assign_exactly(damages, sizes, budget)
    if exact is None:
        return relaxed
    rows = np.arange(len(damages))
    return exact if damages[rows, exact].sum() <= damages[rows, relaxed].sum() else relaxed


def assign_by_multiplier(damages: Floats, sizes: Floats, budget: float) -> Array:
    """Return the assignment that minimizes Σ damage + μ·size, for the smallest μ that keeps the budget."""
    cost = np.where(np.isfinite(damages), damages, np.inf)
    rows = np.arange(len(cost))

    def choose(multiplier: float) -> Array:
        return np.asarray((cost + multiplier * sizes).argmin(1))

    if sizes[rows, choose(0.0)].sum() <= budget * (1 + TOLERANCE):
        return choose(0.0)
    best = np.where(np.isfinite(damages), sizes, np.inf).argmin(1)
    low, high = 0.0, 1.0
    while sizes[rows, choose(high)].sum() > budget * (1 + TOLERANCE) and high < 1e30:
        high *= 10
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        chosen = choose(middle)
        if sizes[rows, chosen].sum() <= budget * (1 + TOLERANCE):
            high, best = middle, chosen
        else:
            low = middle
    return np.asarray(best)


def _assign_exactly(damages: Floats, sizes: Floats, budget: float) -> Array | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    tensors, choices = damages.shape
    possible = np.isfinite(damages).ravel()
    scale = max(float(damages[np.isfinite(damages)].max()), 1e-300)
    cost = np.where(possible, damages.ravel() / scale, 0.0)
    columns = np.arange(tensors * choices)
    one_each = coo_array((np.ones(tensors * choices), (columns // choices, columns)))
    size = coo_array((sizes.ravel() / budget, (np.zeros(tensors * choices, int), columns)))
    result = milp(
        cost,
        integrality=np.ones(tensors * choices),
        bounds=Bounds(0, possible.astype(float)),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(size, -np.inf, 1 + TOLERANCE)],
        options={"time_limit": MIP_SECONDS, "mip_rel_gap": MIP_GAP},
    )
    if result.x is None:
        return None
    return np.asarray(result.x.reshape(tensors, choices).argmax(1))
