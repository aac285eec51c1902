"""One number per metric for a whole model, over the layers that count."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from layerscope import registry
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report

EXCLUDING_FINDINGS = {"LS105": "collapsed"}  # findings that keep a layer out of the averages


def summarize(report: Report) -> dict[str, Any]:
    """Mean, median, spread and count of each metric over fitted, non-embedding, not collapsed layers.

    ``left_out`` lists the analysed layers that do not count, and why; ``skipped`` counts the tensors never analysed.
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
