"""Compute every metric of one layer, with a reason for each one that is absent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from layerscope import registry
from layerscope.errors import Absent
from layerscope.metrics.metric_decorator import DATA_ROLES, LEARNING_FACT, ROLES, WEIGHT_FACTS
from layerscope.numerics import unit_norms
from layerscope.records.layers import Measurement, Value
from layerscope.settings import Settings


class LearningNumbers(dict[str, float]):
    """Numbers measured by a source; a missing one raises Absent with its name."""

    def __missing__(self, name: str) -> float:
        raise Absent(f"{name} was not measured")


def compute(parts: Mapping[str, Measurement], settings: Settings) -> tuple[dict[str, Value], dict[str, str]]:
    """Return the metrics of one layer by name, and the reason for every metric that is absent."""
    weight = parts["weight"]
    facts: dict[str, Any] = {"ref": weight.ref, "settings": settings}
    missing_reasons = {
        role: (weight.skipped or "a vector has no spectrum") if role == "weight" else f"no {role} was measured"
        for role in ROLES
    }
    missing_reasons["fisher"] = "not requested (exact=True), or not available for shared, grouped or kernel-free layers"
    missing_reasons |= dict.fromkeys(registry.plugins("fits"), "not requested")
    missing_reasons |= dict.fromkeys(
        WEIGHT_FACTS, "not available for a low-rank product" if weight.ref.rank else "not requested"
    )
    for role, part in parts.items():
        if part.spectrum is not None and role in ROLES:
            facts[role] = part.spectrum
    facts |= _facts_of_weight(parts, missing_reasons)
    learning = {
        name: value for part in parts.values() for name, value in part.facts.items() if name not in unit_norms.FACTS
    }
    if learning:
        facts[LEARNING_FACT] = LearningNumbers(learning)
    unavailable = set() if learning else {*DATA_ROLES, LEARNING_FACT}
    for name, fit in weight.fits.items():
        if fit.ok:
            facts[name] = fit
        else:
            missing_reasons[name] = fit.reason
    values: dict[str, Value] = {}
    absent: dict[str, str] = {}
    for plugin in registry.plugins("metrics").values():
        if unavailable & set(plugin.needs):
            continue
        reasons = [missing_reasons[need] for need in plugin.needs if need not in facts]
        try:
            if reasons:
                raise Absent(reasons[0])
            values[plugin.name] = _require_finite(registry.call(plugin, facts))
        except Absent as absence:
            absent[plugin.name] = str(absence)
    return values, absent


def _facts_of_weight(parts: Mapping[str, Measurement], missing_reasons: dict[str, str]) -> dict[str, Any]:
    """Return the facts derived from the weight matrix; reasons for missing ones go into ``missing_reasons``."""
    facts: dict[str, Any] = {}
    shuffles = [part for role, part in parts.items() if role.startswith("shuffle")]
    if shuffles:
        facts["shuffles"] = shuffles
    if all(name in parts["weight"].facts for name in unit_norms.FACTS):
        facts["units"] = parts["weight"].facts
    else:
        missing_reasons["units"] = "not counted for groups, single matrices, products and large quantized weights"
    if "relative_change" in parts["weight"].facts:
        facts["change"] = parts["weight"].facts
    else:
        missing_reasons["change"] = "not requested (layerscope diff)"
    if parts["weight"].modes:
        facts["modes"] = parts["weight"].modes
    for name in ("windows", "canonical"):
        part = parts.get(name)
        if part is not None:
            fit = part.fits.get("power_law")
            if fit is not None and fit.ok:
                facts[name] = part
            else:
                missing_reasons[name] = part.skipped or (fit.reason if fit else "not fitted")
    return facts


def _require_finite(value: Any) -> Value:
    if isinstance(value, str):
        return value
    number = value if isinstance(value, int) else float(value)
    if not math.isfinite(number):
        raise Absent("not a finite number")
    return number
