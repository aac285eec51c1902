"""The decorator that makes a function a column."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from layerscope import registry

ROLES = ("weight", "base", "input", "gradient", "fisher")
WEIGHT_FACTS = ("shuffles", "windows", "modes")  # from the weight's own matrix, on request
DATA_ROLES = ("input", "gradient", "fisher")  # roles that only data can fill
LEARNING_FACT = "learning"  # numbers of all roles that the source gave beside the matrices, where it gave any


def metric(
    *, unit: str, ref: str, fmt: str = ".3g", over_layers: str = "mean", label: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the column of its name.

    ``unit`` of the value (W is the weights' own), ``fmt`` for tables, ``over_layers`` is "mean" for metrics that the
    summary averages and "" for those it does not, ``label`` the heading of narrow tables, ``ref`` the source.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        known = {*ROLES, *WEIGHT_FACTS, LEARNING_FACT, *registry.plugins("fits"), "ref", "settings"}
        for name in inspect.signature(function).parameters:
            if name not in known:
                code = function.__code__
                where = f"{code.co_filename}:{code.co_firstlineno}"
                raise TypeError(f"{where}: metric {function.__name__} asks for {name!r}; known facts: {sorted(known)}")
        meta = {"unit": unit, "ref": ref, "fmt": fmt, "over_layers": over_layers, "label": label or function.__name__}
        return registry.mark("metrics", function.__name__, **meta)(function)

    return decorate
