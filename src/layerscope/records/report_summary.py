"""The summary of a report: one number per metric over the averaged layers."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from layerscope import registry
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report

EXCLUDING_FINDINGS = {"LS105": "collapsed"}  # findings that exclude a layer from the averages


def summarize(report: Report) -> dict[str, Any]:
    """Return mean, median, standard deviation and count of each metric over the averaged layers.

    Layers without a fit, embeddings and collapsed layers are not averaged. ``left_out`` lists the analyzed layers that
    are excluded, with the reason; ``skipped`` counts the tensors that were never analyzed.
    """
    excluded: list[dict[str, str]] = []
    counted: list[LayerReport] = []
    collapsed = {f.layer: EXCLUDING_FINDINGS[f.code] for f in report.findings if f.code in EXCLUDING_FINDINGS}
    for layer in report.rows:
        if layer.skipped:
            continue
        reason = collapsed.get(layer.name) or _exclusion_reason(layer)
        if reason:
            excluded.append({"name": layer.name, "why": reason})
        else:
            counted.append(layer)
    metrics = {}
    for plugin in registry.plugins("metrics").values():
        if plugin.meta["over_layers"] == "mean":
            values = [float(x.metrics[plugin.name]) for x in counted if plugin.name in x.metrics]
            if values:
                metrics[plugin.name] = {
                    "mean": statistics.fmean(values),
                    "median": statistics.median(values),
                    "sd": statistics.stdev(values) if len(values) > 1 else None,
                    "n": len(values),
                }
    skipped = Counter(layer.ref.kind for layer in report.rows if layer.skipped and not layer.failed)
    return {
        "analysed": sum(not layer.skipped for layer in report.rows),
        "averaged": len(counted),
        "skipped": dict(sorted(skipped.items())),
        "failed": [layer.name for layer in report.rows if layer.failed],
        "left_out": excluded,
        "findings": dict(sorted(Counter(f.code for f in report.findings).items())),
        "metrics": metrics,
    }


def _exclusion_reason(layer: LayerReport) -> str:
    if layer.ref.kind == "embedding":
        return "embedding"
    return "" if "alpha" in layer.metrics else layer.absent.get("alpha", "no fit")
