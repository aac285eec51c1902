"""The decorator that registers a function as a metric (a column)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from layerscope import registry

ROLES = ("weight", "base", "input", "gradient", "fisher")
WEIGHT_FACTS = ("shuffles", "windows", "canonical", "modes", "units", "change")  # derived from the weight matrix
DATA_ROLES = ("input", "gradient", "fisher")  # roles that require data
LEARNING_FACT = "learning"  # numbers that the source measured in addition to the matrices, for all roles


def metric(
    *, unit: str, ref: str, fmt: str = ".3g", over_layers: str = "mean", label: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the metric (column) of the same name.

    ``unit`` is the unit of the value (W stands for the unit of the weights) and ``fmt`` its format in tables.
    ``over_layers`` is "mean" for metrics that the summary averages and "" for the others. ``label`` is the heading in
    tables, and ``ref`` cites the source.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        known = {*ROLES, *WEIGHT_FACTS, LEARNING_FACT, *registry.plugins("fits"), "ref", "settings"}
        for name in inspect.signature(function).parameters:
            if name not in known:
                code = function.__code__
                where = f"{code.co_filename}:{code.co_firstlineno}"
                raise TypeError(f"{where}: metric {function.__name__} needs {name!r}; known facts: {sorted(known)}")
        meta = {"unit": unit, "ref": ref, "fmt": fmt, "over_layers": over_layers, "label": label or function.__name__}
        return registry.mark("metrics", function.__name__, **meta)(function)

    return decorate
