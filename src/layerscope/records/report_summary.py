"""One number per metric for a whole model, over the layers that count."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from layerscope import registry
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report

OUT = {"LS105": "collapsed"}  # findings that keep a layer out of the averages


def summarize(report: Report) -> dict[str, Any]:
    """Mean, median, spread and count of each metric over fitted, non-embedding, not collapsed layers.

    ``left_out`` lists the analysed layers that do not count, and why; ``skipped`` counts the tensors never analysed.
    """
    out: list[dict[str, str]] = []
    count: list[LayerReport] = []
    collapsed = {f.layer: OUT[f.code] for f in report.findings if f.code in OUT}
    for layer in report.rows:
        if layer.skipped:
            continue
        why = collapsed.get(layer.name) or _left_out(layer)
        if why:
            out.append({"name": layer.name, "why": why})
        else:
            count.append(layer)
    metrics = {}
    for plugin in registry.plugins("metrics").values():
        if plugin.meta["over_layers"] == "mean":
            values = [float(x.metrics[plugin.name]) for x in count if plugin.name in x.metrics]
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
        "averaged": len(count),
        "skipped": dict(sorted(skipped.items())),
        "failed": [layer.name for layer in report.rows if layer.failed],
        "left_out": out,
        "findings": dict(sorted(Counter(f.code for f in report.findings).items())),
        "metrics": metrics,
    }


def _left_out(layer: LayerReport) -> str:
    if layer.ref.kind == "embedding":
        return "embedding"
    return "" if "alpha" in layer.metrics else layer.absent.get("alpha", "no fit")
