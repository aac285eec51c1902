"""Columns: facts about one layer → one number. ``@metric(...)`` on a function makes it a column.

The parameters name the facts it needs: ``weight`` (its Spectrum; likewise ``base``, ``input``, ``gradient``,
``fisher``), a fit family by name (its Fit, already successful), ``learning`` (numbers that the source gave beside the
matrices), ``shuffles`` (a Measurement per shuffle) and ``windows`` (a Measurement) where they were asked for, ``modes``
(the eigenvectors), ``ref`` (the LayerRef) or ``settings``. A parameter with a default is optional. A metric that is
undefined for a layer raises :class:`~layerscope.errors.Absent` with the reason; those of a lens that was not used are
not there.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from layerscope import registry
from layerscope.errors import Absent
from layerscope.settings import Settings
from layerscope.types import Measurement, Value

ROLES = ("weight", "base", "input", "gradient", "fisher")
MADE = ("shuffles", "windows", "modes")  # from the weight's own matrix, on request
LENS = ("input", "gradient", "fisher")  # roles that only data can fill
LEARNING = "learning"  # numbers of all roles that the source gave beside the matrices, where it gave any


def metric(
    *, unit: str, ref: str, fmt: str = ".3g", over_layers: str = "mean", label: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the column of its name.

    ``unit`` of the value (W is the weights' own), ``fmt`` for tables, ``over_layers`` is "mean" for metrics that the
    summary averages and "" for those it does not, ``label`` the heading of narrow tables, ``ref`` the source.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        known = {*ROLES, *MADE, LEARNING, *registry.plugins("fits"), "ref", "settings"}
        for name in inspect.signature(function).parameters:
            if name not in known:
                code = function.__code__
                where = f"{code.co_filename}:{code.co_firstlineno}"
                raise TypeError(f"{where}: metric {function.__name__} asks for {name!r}; known facts: {sorted(known)}")
        meta = {"unit": unit, "ref": ref, "fmt": fmt, "over_layers": over_layers, "label": label or function.__name__}
        return registry.mark("metrics", function.__name__, **meta)(function)

    return decorate


class Learned(dict[str, float]):
    """Numbers that a source gave; one that it did not give is absent, with that for a reason."""

    def __missing__(self, name: str) -> float:
        raise Absent(f"{name} was not measured")


def compute(parts: Mapping[str, Measurement], settings: Settings) -> tuple[dict[str, Value], dict[str, str]]:
    """(metrics, absent): every column of one layer, and why the others are not there."""
    weight = parts["weight"]
    facts: dict[str, Any] = {"ref": weight.ref, "settings": settings}
    missing = {role: weight.skipped if role == "weight" else f"no {role} was measured" for role in ROLES}
    missing["fisher"] = "not asked for (exact=True), or not of a shared, grouped or kernel-free layer"
    missing |= dict.fromkeys(registry.plugins("fits"), "not asked for")
    missing |= dict.fromkeys(MADE, "not of a low-rank product" if weight.ref.rank else "not asked for")
    for role, part in parts.items():
        if part.spectrum is not None and role in ROLES:
            facts[role] = part.spectrum
    facts |= _made(parts, missing)
    learning = {name: value for part in parts.values() for name, value in part.facts.items()}
    if learning:
        facts[LEARNING] = Learned(learning)
    unused = set() if learning else {*LENS, LEARNING}
    for name, fit in weight.fits.items():
        if fit.ok:
            facts[name] = fit
        else:
            missing[name] = fit.reason
    values: dict[str, Value] = {}
    absent: dict[str, str] = {}
    for plugin in registry.plugins("metrics").values():
        if unused & set(plugin.needs):
            continue
        reasons = [missing[need] for need in plugin.needs if need not in facts]
        try:
            if reasons:
                raise Absent(reasons[0])
            values[plugin.name] = _checked(registry.call(plugin, facts))
        except Absent as why:
            absent[plugin.name] = str(why)
    return values, absent


def _made(parts: Mapping[str, Measurement], missing: dict[str, str]) -> dict[str, Any]:
    """Facts of what was made from the weight's matrix; why one is not there goes into ``missing``."""
    facts: dict[str, Any] = {}
    shuffles = [part for role, part in parts.items() if role.startswith("shuffle")]
    if shuffles:
        facts["shuffles"] = shuffles
    if parts["weight"].modes:
        facts["modes"] = parts["weight"].modes
    windows = parts.get("windows")
    if windows is not None:
        fit = windows.fits.get("power_law")
        if fit is not None and fit.ok:
            facts["windows"] = windows
        else:
            missing["windows"] = windows.skipped or (fit.reason if fit else "not fitted")
    return facts


def _checked(value: Any) -> Value:
    if isinstance(value, str):
        return value
    number = value if isinstance(value, int) else float(value)
    if not math.isfinite(number):
        raise Absent("not a finite number")
    return number
