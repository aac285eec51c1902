"""Every rule on every layer: numbers to findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerscope import registry
from layerscope.records.findings import Finding, Verdict
from layerscope.records.layers import NOT_SELECTED, LayerReport
from layerscope.rules.landscape_facts import Apart as Apart
from layerscope.rules.landscape_facts import Pair as Pair
from layerscope.rules.landscape_facts import Pairs as Pairs
from layerscope.rules.landscape_facts import Route as Route
from layerscope.rules.landscape_facts import Slope as Slope
from layerscope.rules.tail_evidence import accepted as accepted
from layerscope.rules.tail_evidence import doubt as doubt
from layerscope.settings import Settings


def judge(model: Sequence[LayerReport], settings: Settings) -> tuple[Finding, ...]:
    """Every rule on every analysed layer, in the order of layers, then those about the whole model.

    The latter are not asked where more layers were left out by selection than were analysed.
    """
    rules = sorted(registry.plugins("rules").values(), key=lambda plugin: plugin.name)
    facts: dict[str, Any] = {"settings": settings, "model": model}
    findings: list[Finding] = []
    if settings.inverse:  # every rule speaks about λ, not about 1/λ
        return ()
    for layer in model:
        if layer.skipped:
            continue
        for plugin in rules:
            applies = plugin.meta["over"] == "layer" and not (plugin.meta["own"] and layer.ref.derived)
            if applies and all(name in layer.metrics for name in plugin.meta["metrics"]):
                verdict = registry.call(plugin, facts | {"layer": layer})
                if verdict is not None:
                    findings.append(_finding(plugin, layer.name, verdict))
    whole = [layer for layer in model if not layer.ref.derived]
    left_out = sum(layer.skipped == NOT_SELECTED for layer in model)
    if left_out > sum(not layer.skipped for layer in model):  # a minority does not speak for a model
        return tuple(findings)
    for plugin in rules:
        needs = plugin.meta["metrics"]
        if plugin.meta["over"] == "model" and any(all(name in layer.metrics for name in needs) for layer in whole):
            verdict = registry.call(plugin, facts)
            if verdict is not None:
                findings.append(_finding(plugin, None, verdict))
    return tuple(findings)


def judge_landscape(**facts: Any) -> tuple[Finding, ...]:
    """Every rule about parameter space whose facts are there: ``pairs``, ``apart``, ``route``, ``slope``."""
    rules = sorted(registry.plugins("rules").values(), key=lambda plugin: plugin.name)
    applicable = [p for p in rules if p.meta["over"] == "landscape" and set(p.needs) <= set(facts)]
    verdicts = [(plugin, registry.call(plugin, facts)) for plugin in applicable]
    return tuple(_finding(plugin, None, verdict) for plugin, verdict in verdicts if verdict is not None)


def _finding(plugin: registry.Plugin, layer: str | None, verdict: Verdict) -> Finding:
    meta = plugin.meta
    return Finding(plugin.name, meta["severity"], layer, verdict.value, verdict.limit, verdict.message, meta["title"])
