"""Create the pictures of a plot by name: one in total, or one per layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from layerscope import registry, report_comparison
from layerscope.errors import UnknownName, UsageError
from layerscope.records.comparison import ComparedLayer, Comparison
from layerscope.records.history import History
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import elide, printable, short_target
from layerscope.views.plots.marks import Axis, Picture

MAX_MODEL_NAME_CHARS = 48
LAYER_OF_RUNS_SCOPE, RUN_SCOPE = "run layer", "run"


Target = Report | Comparison | Sequence[History]


def make_pictures(name: str, target: Target, layers: Sequence[str | int] = ()) -> list[Picture]:
    """Create the named plot: one picture, or one per layer for plots of layers.

    :param target: a report, a comparison or a sequence of runs. Plots that do not show runs use their last reports.
    :param layers: names or indices of layers; every analyzed layer if empty.
    :raises UsageError: if the plot or a layer does not exist, or the plot does not apply to this target.
    """
    plugin = registry.find("plots", name)
    module, scope = plugin.target, plugin.target.SCOPE
    if scope == LAYER_OF_RUNS_SCOPE:
        runs = _require_runs(name, target)
        return [module.data(runs, layer.name) for layer in _choose_layers(name, _report_of_common_layers(runs), layers)]
    if scope == RUN_SCOPE:
        if layers:
            raise UsageError(f"{name} shows a whole run; remove the selection of layers (-l)")
        results = module.data(_require_runs(name, target))
        if not results:
            raise UsageError(f"{name}: this run has measured none of the metrics that the plot shows")
        return list(results)
    target = last_reports(target)
    if scope == "models":
        if layers:
            raise UsageError(f"{name} shows whole models; remove the selection of layers (-l)")
        return [module.data(as_comparison(target))]
    if scope == "matched":
        return [
            module.data(as_comparison(target), layer)
            for layer in _choose_matched_layers(name, as_comparison(target), layers)
        ]
    if isinstance(target, Comparison):
        models = zip(target.letters, target.reports, strict=True)
        results = [
            replace(picture, title=f"{letter}: {picture.title}", about=name_model(report, picture).about)
            for letter, report in models
            for picture in make_pictures(name, report, layers)
        ]
        return _align_axes(results) if scope == "model" else results
    if scope == "model":
        if layers:
            raise UsageError(f"{name} shows a whole model; remove the selection of layers (-l)")
        return [module.data(target)]
    return [module.data(target, layer) for layer in _choose_layers(name, target, layers)]


def last_reports(target: Target) -> Report | Comparison:
    """Return the target itself, or the last reports of runs."""
    if isinstance(target, Report | Comparison):
        return target
    reports = [run.last for run in target]
    if len(reports) > 1:
        named = zip(target, reports, strict=True)
        reports = [report.replace(meta={**report.meta, "target": run.name}) for run, report in named]
    return reports[0] if len(reports) == 1 else report_comparison.compare(reports, [{}] * len(reports))


def _require_runs(name: str, target: Target) -> Sequence[History]:
    if isinstance(target, Report | Comparison):
        raise UsageError(f"{name} shows a training run, not a report; pass a history saved by layerscope.Monitor")
    return target


def _report_of_common_layers(runs: Sequence[History]) -> Report:
    """Return the last report of the first run, restricted to layers that all runs have."""
    names = set.intersection(*({row.name for row in run.last.rows if not row.skipped} for run in runs))
    return runs[0].last.replace(rows=tuple(row for row in runs[0].last.rows if row.name in names))


def _align_axes(originals: Sequence[Picture]) -> list[Picture]:
    """Give the pictures of several models the same axis limits; axes of layers and categories stay as they are."""
    shown = [picture for picture in originals if not picture.empty]
    if len(shown) < 2:
        return list(originals)
    differs_by_model = any(picture.x.whole or picture.x.ticks for picture in shown)
    x = (
        None
        if differs_by_model
        else _common_axis([p.x for p in shown], [v for p in shown for m in p.marks for v in m.extent("x")])
    )
    panels = [
        _common_axis(axes, [v for p in shown for m in p.marks if m.panel == i for v in m.extent("y")])
        for i, axes in enumerate(zip(*(p.panels for p in shown), strict=True))
    ]
    return [p if p.empty else replace(p, x=x or p.x, panels=tuple(panels)) for p in originals]


def _common_axis(axes: Sequence[Axis], values: Sequence[float]) -> Axis:
    """Return one axis that covers all others; the extent of the marks replaces missing limits."""
    log = axes[0].scale == "log"
    if axes[0].scale == "category":
        return axes[0]
    usable = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = ([end for axis in axes if (end := getattr(axis, side)) is not None] for side in ("low", "high"))
    if not usable or (len(low) == len(high) == len(axes)):
        return replace(axes[0], low=min(low, default=None), high=max(high, default=None))
    lowest, highest = min(usable), max(usable)
    factor = (highest / lowest) ** 0.05 if log else 0.0
    room = 0.05 * (highest - lowest) or 0.5
    start, end = (lowest / (factor or 1), highest * (factor or 1)) if log else (lowest - room, highest + room)
    return replace(
        axes[0],
        low=min(low) if len(low) == len(axes) else min([start, *low]),
        high=max(high) if len(high) == len(axes) else max([end, *high]),
    )


def as_comparison(target: Report | Comparison) -> Comparison:
    """Return the target as a comparison, with a single model if it is a report."""
    return target if isinstance(target, Comparison) else report_comparison.compare([target], [{}])


def _choose_matched_layers(name: str, whole: Comparison, layers: Sequence[str | int]) -> list[ComparedLayer]:
    if not layers:
        return list(whole.layers)
    layers_by_name = {layer.name: layer for layer in whole.layers}
    for key in layers:
        if key not in layers_by_name:
            raise UnknownName("matched layer", str(key), layers_by_name)
    return [layers_by_name[str(key)] for key in layers]


def _choose_layers(name: str, report: Report, layers: Sequence[str | int]) -> list[LayerReport]:
    if not layers:
        rows = [row for row in report.rows if not row.skipped]
        if not rows:
            reasons = sorted({row.skipped for row in report.rows if row.failed})
            why = f": {printable(reasons[0], 120)}" if reasons else ""
            raise UsageError(f"{name} needs an analyzed layer, but no layer was analyzed{why}")
        return rows
    try:
        return [report.layers[key] for key in layers]
    except KeyError as error:
        raise UsageError(error.args[0]) from None


def name_model(target: Target, picture: Picture) -> Picture:
    """Add the name of the model to the subtitle of a picture."""
    if not isinstance(target, Report):
        return picture
    name = elide(printable(short_target(target.meta["target"])), MAX_MODEL_NAME_CHARS)
    return replace(picture, about=", ".join(filter(None, (name, picture.about))))
