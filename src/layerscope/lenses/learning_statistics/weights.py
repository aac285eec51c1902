"""Weights that a module computes before each forward pass: parametrizations, pruning, weight and spectral norm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from layerscope.sources.readers.torch_module import computed_in_evaluation


def is_computed(module: Any) -> bool:
    """Is the module's weight computed from other parameters?"""
    from torch import nn

    return not isinstance(module._parameters.get("weight"), nn.Parameter)


def computed_weight(module: Any) -> Any:
    """Return the weight that the forward pass uses; one that a hook sets is that of the last pass."""
    if "weight" in getattr(module, "parametrizations", {}):
        return computed_in_evaluation(module, "weight")
    return getattr(module, "weight", None)


def is_used_elsewhere(module: Any, calls: int, count_edges: Callable[[Any], int]) -> bool:
    """Does the graph of the loss use a computed weight more often than in the calls of its module?

    :param count_edges: number of edges of the graph into a node.
    """
    import torch

    weight: Any = getattr(module, "weight", None)
    if "weight" not in getattr(module, "parametrizations", {}):  # a hook computes it once for each forward pass
        return getattr(weight, "grad_fn", None) is not None and count_edges(weight.grad_fn) > 1
    parametrization = module.parametrizations["weight"]
    parameter = next(parametrization.parameters())
    modes = [(part, part.training) for part in parametrization.modules()]
    with torch.enable_grad():
        try:
            for part, _ in modes:
                part.training = False
            computed = parametrization()
        finally:
            for part, mode in modes:
                part.training = mode
    once = sum(edges_into([computed.grad_fn], "variable", parameter).values())
    node = torch.autograd.graph.get_gradient_edge(parameter).node
    return count_edges(node) > once * calls


def edges_into(roots: Sequence[Any], attribute: str = "", value: Any = None) -> Counter[Any]:
    """Count the edges of a graph by the node that they lead to, if its attribute is the value that is given."""
    edges: Counter[Any] = Counter()
    seen, pending = set(roots), list(roots)
    while pending:
        for node, _ in pending.pop().next_functions:
            if node is None:
                continue
            if not attribute or getattr(node, attribute, None) is value:
                edges[node] += 1
            if node not in seen:
                seen.add(node)
                pending.append(node)
    return edges


def weight_of(module: Any) -> Any:
    """Return the module's weight, stored or computed, without its graph."""
    return (computed_weight(module) if is_computed(module) else module.weight).detach()
