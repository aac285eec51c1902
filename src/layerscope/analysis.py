"""What a user calls: the only module that sees every room."""

from __future__ import annotations

import datetime
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from layerscope import pipeline, report_comparison
from layerscope.engines import machine, scheduling
from layerscope.errors import LayerscopeError, NoLayerMatches, Unreadable, UsageError
from layerscope.fits import fitting
from layerscope.records.comparison import Comparison, Matrix
from layerscope.records.layers import Job, LayerReport
from layerscope.records.report import Report
from layerscope.records.sources import SourceSpec
from layerscope.rules.judging import judge
from layerscope.settings import Settings
from layerscope.sources import opening, targets
from layerscope.tensor_names import Selector, select

DEFAULT_ENGINE = "threads"
MEMORY_SHARE = 0.8  # of the memory that is free


def analyze(
    target: Any,
    *,
    layers: Iterable[Selector] | Selector | None = None,
    base: Any = None,
    intra: bool = False,
    stacked: bool = False,
    settings: Settings | None = None,
    engine: str | None = None,
    progress: Any = None,
    **options: Any,
) -> Report:
    """Measure and judge every layer of a model.

    :param target: a file, a folder, a hub id in the local cache, a live model, a dict of arrays, a Report or a saved
        one (re-judged, no matrix touched). A LoRA adapter's folder gives s·B·A of each adapted module.
    :param layers: indices, kinds, names or globs on names; what begins with "-" drops instead; None for all.
    :param base: another model: its weights are subtracted, layers matched by name. With a LoRA adapter as target: the
        model that it is added to, W + s·B·A in full.
    :param intra: products of consecutive layers instead of the layers.
    :param stacked: all layers in one matrix instead of the layers.
    :param settings: how to measure and judge.
    :param engine: "threads" (default), "serial" or "processes".
    :param progress: True for a bar on the terminal or in the notebook; a tqdm class for its bar; or a function, which
        is called with (None, 0, total cost) at the start and with (layer, its cost, total cost) after each layer.
    :param options: single settings by name, as in ``analyze(model, randomize=True)``; see :class:`Settings`.
    :raises TargetError: the target cannot be read or is refused.
    :raises UsageError: a selector, engine or setting that does not exist, or options that contradict each other.
    """
    saved = _saved(target)
    if saved is not None:
        _check_saved(saved, base is not None or intra or stacked, options)
        scheduling.get(engine or DEFAULT_ENGINE)
        asked = (settings or saved.settings).changed(**options) if settings or options else None
        return rejudge(_only(saved, layers), asked)
    settings = (settings or Settings()).changed(**options)
    fitting.check(settings.fits)
    layers = None if layers is None else [layers] if isinstance(layers, str | int) else list(layers)
    chosen = _asked(target, layers, base, intra, stacked)
    target = _arranged(target, base, intra, stacked)
    run = scheduling.get(engine or DEFAULT_ENGINE)
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    with opening.opened(target) as source:
        refs = select(list(source.layers()), layers)
        if settings.per_head and not any(ref.heads > 1 for ref in refs):
            raise UsageError(f"per_head: {targets.name_of(target)} does not say how many heads its attention has")
        memory = int(MEMORY_SHARE * machine.available_memory())
        jobs, idle = pipeline.plan(source.spec, refs, settings, memory)
        workers = min(settings.jobs or machine.cores(), max(1, len(jobs)))
        done = {layer.name: layer for layer in idle}
        total = sum(job.cost for job in jobs)
        with _watched(progress, source.spec) as update:
            if update:
                update(None, 0.0, total)
            for job, result in run(pipeline.measure, jobs, workers=workers, memory=memory):
                layer = _result(job, result)
                done[layer.name] = layer
                if update:
                    update(layer, job.cost, total)
        meta = _meta(source.spec, settings, engine or DEFAULT_ENGINE, workers)
    meta |= {"asked": chosen} if chosen else {}
    meta |= {"started": started.isoformat(timespec="seconds"), "seconds": round(time.perf_counter() - clock, 3)}
    rows = tuple(sorted(done.values(), key=lambda row: (row.ref.index, row.ref.slice or 0)))
    return Report(meta, rows, judge(rows, settings))


def analyze_each(target: Any, **options: Any) -> dict[str, Report]:
    """A report for each model of a target: the parts of a diffusers pipeline by name, or the one model that it is.

    :param options: what :func:`analyze` takes.
    """
    return {name: analyze(part, **options) for name, part in opening.models(target).items()}


def describe(
    target: Any,
    *,
    layers: Iterable[Selector] | Selector | None = None,
    base: Any = None,
    intra: bool = False,
    stacked: bool = False,
    settings: Settings | None = None,
    **options: Any,
) -> Report:
    """What a model consists of, from its headers alone: a Report whose layers have sizes but no spectra."""
    saved = _saved(target)
    if saved is not None:
        _check_saved(saved, base is not None or intra or stacked, options)
        return _only(saved, layers)
    settings = (settings or Settings()).changed(**options)
    with opening.opened(_arranged(target, base, intra, stacked)) as source:
        refs = select(list(source.layers()), layers)
        rows = [pipeline.skipped(ref, ref.skipped) for ref in pipeline.rows_of(refs, settings)]
        return Report(_meta(source.spec, settings, "none", 0), tuple(rows))


def plan(
    target: Any,
    *,
    layers: Iterable[Selector] | Selector | None = None,
    base: Any = None,
    intra: bool = False,
    stacked: bool = False,
    settings: Settings | None = None,
    **options: Any,
) -> tuple[list[Job], list[LayerReport]]:
    """The jobs that analyze would run, with cost and memory, biggest first, and the layers it would skip."""
    settings = (settings or Settings()).changed(**options)
    with opening.opened(_arranged(target, base, intra, stacked)) as source:
        jobs, idle = pipeline.plan(source.spec, select(list(source.layers()), layers), settings)
    return scheduling.biggest_first(jobs), idle


def rejudge(report: Report, settings: Settings | None = None) -> Report:
    """The same spectra under other settings: fits, metrics and verdicts anew, no matrix touched.

    Settings that shape the spectra themselves (``settings.MEASURED``) stay what they were measured with.
    """
    settings = (settings or report.settings).judging(report.settings)
    fitting.check(settings.fits)
    rows = tuple(pipeline.rejudge(layer, settings) for layer in report.rows)
    return Report({**report.meta, "settings": settings.to_dict()}, rows, judge(rows, settings))


def compare(
    *targets: Any,
    layers: Iterable[Selector] | Selector | None = None,
    distances: bool = True,
    settings: Settings | None = None,
    engine: str | None = None,
    progress: Any = None,
    **options: Any,
) -> Comparison:
    """Several models beside each other: summaries, layers matched by name, their distances, and what it says.

    :param targets: two or more of what analyze takes; distances are from the first.
    :param distances: measure them, which reads both models again; saved reports have no weights to measure.
    :raises UsageError: fewer than two targets.
    """
    if len(targets) < 2:
        raise UsageError(f"compare takes two models or more, not {len(targets)}")
    chosen: dict[str, Any] = {"layers": layers, "settings": settings, "engine": engine, "progress": progress}
    reports = [analyze(target, **chosen, **options) for target in targets]
    measured: list[dict[str, dict[str, float]]] = [{}]
    used = (settings or Settings()).changed(**options)
    saved = [_saved(target) is not None for target in targets]

    def pair(measure: Callable[[Job], Any], i: int, j: int) -> dict[str, dict[str, float]]:
        readable = distances and not (saved[i] or saved[j])
        return _of_pair(measure, targets[i], targets[j], layers, used, engine) if readable else {}

    measured += [pair(pipeline.distances, i, 0) for i in range(1, len(targets))]
    apart = [[_pooled(pair(pipeline.separation, i, j)) for j in range(i)] for i in range(len(targets))]
    return report_comparison.compare(reports, measured, _symmetric(apart))


def _of_pair(
    measure: Callable[[Job], Any],
    target: Any,
    base: Any,
    layers: Iterable[Selector] | Selector | None,
    settings: Settings,
    engine: str | None,
) -> dict[str, dict[str, float]]:
    """What is measured of each layer that both models have, by name; nothing where they share no layer."""
    from layerscope.sources.composed.update import Delta
    from layerscope.tensor_names import strip_wrapper_prefixes

    run = scheduling.get(engine or DEFAULT_ENGINE)
    try:
        with opening.opened(Delta(target, base)) as source:
            jobs = pipeline.plan_distances(source.spec, select(list(source.layers()), layers), settings)
            workers = min(settings.jobs or machine.cores(), max(1, len(jobs)))
            memory = int(MEMORY_SHARE * machine.available_memory())
            done = {job.refs[0].name: result for job, result in run(measure, jobs, workers=workers, memory=memory)}
    except (Unreadable, NoLayerMatches):  # no layer in common: the comparison says so
        return {}
    return {strip_wrapper_prefixes(name): result for name, result in done.items() if isinstance(result, dict)}


def _pooled(norms: Mapping[str, Mapping[str, float]]) -> float | None:
    """‖A−B‖ / √(‖A‖‖B‖) over all common layers; None where there are none or a norm is zero or not finite."""
    model, base, difference = (sum(layer[name] for layer in norms.values()) for name in ("model", "base", "difference"))
    if not (0 < model < math.inf and 0 < base < math.inf):
        return None
    return float(math.sqrt(difference) / (model * base) ** 0.25)


def _symmetric(lower: list[list[float | None]]) -> Matrix:
    """The whole matrix from its lower triangle; empty where no pair has a distance."""
    if all(value is None for row in lower for value in row):
        return ()
    size = range(len(lower))
    return tuple(tuple(0.0 if i == j else lower[max(i, j)][min(i, j)] for j in size) for i in size)


def _arranged(target: Any, base: Any, intra: bool, stacked: bool) -> Any:
    """The target that is meant: a difference, an adapter on its base, products, a stack, or the model itself."""
    from layerscope.sources.adapters import adapted_model
    from layerscope.sources.composed import products as products
    from layerscope.sources.composed import stacks as stack
    from layerscope.sources.composed import update
    from layerscope.sources.readers import lora

    if intra and stacked:
        raise UsageError("intra and stacked contradict each other: products of layers, or all layers in one matrix")
    if base is not None:
        added = lora.is_adapter(target) and not lora.is_adapter(base)
        target = adapted_model.Merged(target, base) if added else update.Delta(target, base)
    if intra:
        return products.Intra(target)
    return stack.Stacked(target) if stacked else target


def _asked(target: Any, layers: list[Selector] | None, base: Any, intra: bool, stacked: bool) -> dict[str, Any]:
    """What was asked for besides the settings: who reads the report can ask for it again."""
    asked: dict[str, Any] = {"layers": layers} if layers is not None else {}
    if base is not None or intra or stacked:
        asked["target"] = targets.name_of(target)
    if base is not None:
        asked["base"] = targets.name_of(base)
    asked |= {name: True for name, value in (("intra", intra), ("stacked", stacked)) if value}
    live = not all(isinstance(x, str | PathLike) for x in (target, base) if x is not None)
    return asked | ({"live": True} if live else {})


def _saved(target: Any) -> Report | None:
    if isinstance(target, Report):
        return target
    if isinstance(target, str | Path):
        from layerscope.persistence import report_file

        if report_file.is_report(target):
            return report_file.load(target)
        if report_file.is_history(target):
            raise UsageError(f"{target} is a history, several reports: layerscope history, or History.load(…).last")
    return None


def _check_saved(report: Report, composed: bool, options: Mapping[str, Any]) -> None:
    if composed:
        raise UsageError("base, intra and stacked need the weights; a saved report has none")
    report.settings.check_measured(options)


def _only(report: Report, layers: Iterable[Selector] | Selector | None) -> Report:
    if layers is None:
        return report
    chosen = [layers] if isinstance(layers, str | int) else list(layers)
    refs = select([row.ref for row in report.rows], chosen)
    rows = [
        pipeline.skipped(ref, ref.skipped) if ref.skipped and not row.skipped else row
        for ref, row in zip(refs, report.rows, strict=True)
    ]
    asked = {**report.meta.get("asked", {}), "layers": chosen}
    return report.replace(rows=tuple(rows), meta={**report.meta, "asked": asked})


def _watched(progress: Any, spec: SourceSpec) -> AbstractContextManager[Any]:
    from layerscope.progress_bars import watched

    return watched(progress, targets.name_of(spec.target))


def _result(job: Job, result: Any) -> LayerReport:
    if isinstance(result, LayerReport):
        return result
    reason = f"{result}" if isinstance(result, LayerscopeError) else f"{type(result).__name__}: {result}"
    return pipeline.skipped(job.refs[0], f"failed: {reason}", failed=True)


def _meta(spec: SourceSpec, settings: Settings, engine: str, workers: int) -> dict[str, Any]:
    return {
        "target": targets.name_of(spec.target),
        "format": spec.format,
        **({"read": spec.note} if spec.note else {}),
        "layerscope": version("layerscope"),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": f"cpu ({platform.machine()})",
        "engine": engine,
        "workers": workers,
        "seed": settings.seed,
        "settings": settings.to_dict(),
    }
