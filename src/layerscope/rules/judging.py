"""Apply every rule to every layer, to the whole model, or to a landscape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from layerscope import registry
from layerscope.records.findings import Finding, Verdict
from layerscope.records.layers import NOT_SELECTED, LayerReport
from layerscope.records.merge_check import MergeCheck
from layerscope.records.quantization import QuantizationAudit
from layerscope.records.report import Report
from layerscope.rules.landscape_facts import Apart as Apart
from layerscope.rules.landscape_facts import Pair as Pair
from layerscope.rules.landscape_facts import Pairs as Pairs
from layerscope.rules.landscape_facts import Route as Route
from layerscope.rules.landscape_facts import Slope as Slope
from layerscope.rules.ls116_not_canonical import withdrawn_verdicts
from layerscope.rules.ls117_growing_weights import RunTrend
from layerscope.rules.merge_facts import Merge
from layerscope.rules.model_changes import Changes
from layerscope.rules.model_layers import ModelLayers
from layerscope.rules.tail_evidence import accepted as accepted
from layerscope.rules.tail_evidence import doubt as doubt
from layerscope.settings import Settings


def judge_report(
    meta: Mapping[str, Any], rows: Sequence[LayerReport], settings: Settings
) -> tuple[Finding, ...]:  # fmt: skip
    """Apply the rules that a report needs: those about what changed to a diff, otherwise those about layers."""
    return judge_changes(rows, settings) if "diff" in meta else judge(rows, settings)


def judge(model: Sequence[LayerReport], settings: Settings) -> tuple[Finding, ...]:
    """Apply every rule to every analyzed layer, in order, and then the rules about the whole model.

    Rules about the whole model are skipped if the selection excludes more layers than were analyzed.
    """
    rules = sorted(registry.plugins("rules").values(), key=lambda plugin: plugin.name)
    facts: dict[str, Any] = {"settings": settings, "model": ModelLayers(model)}
    findings: list[Finding] = []
    if settings.inverse:  # the rules apply to λ, not to 1/λ
        return ()
    for layer in model:
        if layer.skipped:
            continue
        withdrawn = withdrawn_verdicts(layer, settings)
        for plugin in rules:
            applies = plugin.meta["over"] == "layer" and not (plugin.meta["own"] and layer.ref.derived)
            applies = applies and plugin.name not in withdrawn
            if applies and all(name in layer.metrics for name in plugin.meta["metrics"]):
                verdict = registry.call(plugin, facts | {"layer": layer})
                if verdict is not None:
                    findings.append(_finding(plugin, layer.name, verdict))
    whole = [layer for layer in model if not layer.ref.derived]
    left_out = sum(layer.skipped == NOT_SELECTED for layer in model)
    if left_out > sum(not layer.skipped for layer in model):  # a minority of the layers does not represent the model
        return tuple(findings)
    for plugin in rules:
        needs = plugin.meta["metrics"]
        if plugin.meta["over"] == "model" and any(all(name in layer.metrics for name in needs) for layer in whole):
            verdict = registry.call(plugin, facts)
            if verdict is not None:
                findings.append(_finding(plugin, None, verdict))
    return tuple(findings)


def judge_changes(rows: Sequence[LayerReport], settings: Settings) -> tuple[Finding, ...]:
    """Apply every rule about what changed between two models to all pairs of tensors."""
    rules = [plugin for plugin in registry.plugins("rules").values() if plugin.meta["over"] == "diff"]
    facts = {"changes": Changes(rows), "settings": settings}
    findings: list[Finding] = []
    for plugin in sorted(rules, key=lambda plugin: plugin.name):
        for layer, verdict in registry.call(plugin, facts):
            findings.append(_finding(plugin, layer, verdict))
    return tuple(findings)


def judge_pair(before: LayerReport, after: LayerReport, settings: Settings) -> tuple[Finding, ...]:
    """Apply every rule about regressions to one layer of two models; the findings name the second one's layer."""
    findings = []
    for plugin in sorted(registry.plugins("rules").values(), key=lambda plugin: plugin.name):
        needs = plugin.meta["metrics"]
        if plugin.meta["over"] == "comparison" and all(n in x.metrics for x in (before, after) for n in needs):
            verdict = registry.call(plugin, {"before": before, "after": after, "settings": settings})
            if verdict is not None:
                findings.append(_finding(plugin, after.name, verdict))
    return tuple(findings)


def judge_merge(check: MergeCheck, settings: Settings) -> tuple[Finding, ...]:
    """Apply every rule about merging models."""
    rules = [plugin for plugin in registry.plugins("rules").values() if plugin.meta["over"] == "merge"]
    facts = {"merge": Merge(check), "settings": settings}
    verdicts = [(plugin, registry.call(plugin, facts)) for plugin in sorted(rules, key=lambda plugin: plugin.name)]
    return tuple(_finding(plugin, None, verdict) for plugin, verdict in verdicts if verdict is not None)


def judge_quantization(audit: QuantizationAudit, settings: Settings) -> tuple[Finding, ...]:
    """Apply every rule about a quantized model beside its original."""
    rules = [plugin for plugin in registry.plugins("rules").values() if plugin.meta["over"] == "quantization"]
    facts = {"quantization": audit, "settings": settings}
    return tuple(
        _finding(plugin, name, verdict)
        for plugin in sorted(rules, key=lambda plugin: plugin.name)
        for name, verdict in registry.call(plugin, facts)
    )


def judge_run(reports: Sequence[Report], steps: Sequence[int]) -> tuple[Finding, ...]:
    """Apply every rule about a training run to the reports of its steps."""
    means = []
    for step, report in zip(steps, reports, strict=True):
        norms = [float(row.metrics["log_norm"]) for row in report.rows if {"log_norm", "alpha"} <= row.metrics.keys()]
        if norms:
            means.append((step, fmean(norms)))
    if len(means) < 2:
        return ()
    facts = {"run": RunTrend(*zip(*means, strict=True)), "settings": reports[-1].settings}
    rules = [plugin for plugin in registry.plugins("rules").values() if plugin.meta["over"] == "run"]
    verdicts = [(plugin, registry.call(plugin, facts)) for plugin in sorted(rules, key=lambda plugin: plugin.name)]
    return tuple(_finding(plugin, None, verdict) for plugin, verdict in verdicts if verdict is not None)


def judge_landscape(**facts: Any) -> tuple[Finding, ...]:
    """Apply every rule about parameter space that the given facts allow.

    The facts are ``pairs``, ``apart``, ``route`` and ``slope``, see :mod:`layerscope.rules.landscape_facts`.
    """
    rules = sorted(registry.plugins("rules").values(), key=lambda plugin: plugin.name)
    applicable = [p for p in rules if p.meta["over"] == "landscape" and set(p.needs) <= set(facts)]
    verdicts = [(plugin, registry.call(plugin, facts)) for plugin in applicable]
    return tuple(_finding(plugin, None, verdict) for plugin, verdict in verdicts if verdict is not None)


def _finding(plugin: registry.Plugin, layer: str | None, verdict: Verdict) -> Finding:
    meta = plugin.meta
    return Finding(plugin.name, meta["severity"], layer, verdict.value, verdict.limit, verdict.message, meta["title"])
