"""Public functions that analyze models: analyze, describe, plan, compare and rejudge."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from layerscope import pipeline, report_comparison
from layerscope.baseline_tables import check_baselines
from layerscope.engines import scheduling
from layerscope.errors import NoLayerMatches, Unreadable, UsageError
from layerscope.fits import fitting
from layerscope.layer_jobs import measure_layers, report_metadata, usable_memory, worker_count
from layerscope.progress_bars import progress_callback
from layerscope.records.comparison import Comparison, Matrix
from layerscope.records.layers import Job, LayerRef, LayerReport
from layerscope.records.report import Report
from layerscope.rules.judging import judge_report
from layerscope.settings import Settings
from layerscope.sources import opening, targets
from layerscope.sources.composed.arrangement import check_arrangement, compose_target, describe_request
from layerscope.tensor_names import Selector, strip_wrapper_prefixes
from layerscope.tensor_names import select as select_layers

DEFAULT_ENGINE = "threads"


def analyze(
    target: Any,
    *,
    layers: Iterable[Selector] | Selector | None = None,
    base: Any = None,
    intra: bool = False,
    stacked: bool = False,
    canonical: bool = False,
    select: str = "",
    settings: Settings | None = None,
    engine: str | None = None,
    progress: Any = None,
    **options: Any,
) -> Report:
    """Measure every layer of a model, and report findings.

    :param target: a file, a folder, a hub id in the local cache, a live model or a dict of arrays. The folder of a LoRA
        adapter gives the weight updates s·B·A. A Report or a saved report is judged again without reading weights.
    :param layers: indices, kinds, names or globs of the layers to analyze; selectors that begin with "-" exclude layers
        instead. None analyzes all layers.
    :param base: another model, whose weights are subtracted, layers matched by name. If the target is a LoRA adapter:
        the model to add it to, which gives W + s·B·A.
    :param intra: analyze products of consecutive layers instead of the layers.
    :param stacked: analyze one matrix of all layers instead of the layers.
    :param canonical: also measure each layer in a canonical form that computes the same function: batch norms folded,
        hidden units balanced, WqᵀWk and WoWv of each head. Verdicts that this changes are withdrawn.
    :param select: analyze only this part of a checkpoint, e.g. "ema" for the averaged copy that is skipped otherwise.
    :param settings: settings for measuring and judging.
    :param engine: "threads" (default), "serial" or "processes".
    :param progress: True for a progress bar in the terminal or notebook; a tqdm class to use its bar; or a function,
        called with (None, 0, total cost) at the start and (layer, its cost, total cost) after each layer.
    :param options: single settings by name, such as ``analyze(model, randomize=True)``; see :class:`Settings`.
    :raises TargetError: the target cannot be read, or reading it is refused.
    :raises UsageError: a selector, engine or setting does not exist, or options contradict each other.
    """
    engine = engine or DEFAULT_ENGINE
    saved = _load_saved_report(target)
    if saved is not None:
        _check_saved_options(saved, base is not None or intra or stacked or canonical or bool(select), options)
        scheduling.engine_named(engine)
        changed = (settings or saved.settings).changed(**options) if settings or options else None
        if changed is not None and (changed.against, changed.optimizer) != (
            saved.settings.against,
            saved.settings.optimizer,
        ):
            check_baselines(changed.against, changed.optimizer)
        return rejudge(_select_rows(saved, layers), changed)
    settings = (settings or Settings()).changed(**options)
    fitting.check_families(settings.fits)
    check_baselines(settings.against, settings.optimizer)
    selectors = _to_list(layers)
    arrangement = {"intra": intra, "stacked": stacked, "canonical": canonical}
    check_arrangement(base, arrangement, settings)
    request = describe_request(target, selectors, base, arrangement, select)
    target = compose_target(target, base, arrangement, select)
    run = scheduling.engine_named(engine)
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    with opening.opened_source(target) as source:
        refs = select_layers(list(source.layers()), selectors)
        _check_heads(target, refs, settings)
        memory = usable_memory()
        jobs, unmeasured = pipeline.plan(source.spec, refs, settings, memory)
        workers = worker_count(settings, jobs)
        with progress_callback(progress, targets.name_of(source.spec.target)) as update:
            measured = measure_layers(run, pipeline.measure, jobs, workers, memory, update)
        meta = report_metadata(source.spec, settings, engine, workers)
    meta |= {"asked": request} if request else {}
    meta |= {"started": started.isoformat(timespec="seconds"), "seconds": round(time.perf_counter() - clock, 3)}
    rows = _rows_in_order([*unmeasured, *measured])
    return Report(meta, rows, judge_report(meta, rows, settings))


def analyze_each(target: Any, **options: Any) -> dict[str, Report]:
    """Analyze each model of a target and return the reports by name.

    The models of a diffusers pipeline are its parts; other targets contain one model.

    :param options: options of :func:`analyze`.
    """
    return {name: analyze(part, **options) for name, part in opening.models(target).items()}


def describe(
    target: Any,
    *,
    layers: Iterable[Selector] | Selector | None = None,
    base: Any = None,
    intra: bool = False,
    stacked: bool = False,
    select: str = "",
    settings: Settings | None = None,
    **options: Any,
) -> Report:
    """List the layers of a model without reading weights: a report whose layers have sizes but no spectra.

    The parameters are those of :func:`analyze`.
    """
    saved = _load_saved_report(target)
    if saved is not None:
        _check_saved_options(saved, base is not None or intra or stacked or bool(select), options)
        return _select_rows(saved, layers)
    settings = (settings or Settings()).changed(**options)
    with opening.opened_source(compose_target(target, base, {"intra": intra, "stacked": stacked}, select)) as source:
        refs = select_layers(list(source.layers()), layers)
        rows = [pipeline.skipped_layer(ref, ref.skipped) for ref in pipeline.report_rows(refs, settings)]
        return Report(report_metadata(source.spec, settings, "none", 0), tuple(rows))


def plan(
    target: Any,
    *,
    layers: Iterable[Selector] | Selector | None = None,
    base: Any = None,
    intra: bool = False,
    stacked: bool = False,
    select: str = "",
    settings: Settings | None = None,
    **options: Any,
) -> tuple[list[Job], list[LayerReport]]:
    """Return the jobs that :func:`analyze` would run, with cost and memory, and the layers that it would skip.

    Jobs are sorted by cost, largest first. The parameters are those of :func:`analyze`.
    """
    settings = (settings or Settings()).changed(**options)
    with opening.opened_source(compose_target(target, base, {"intra": intra, "stacked": stacked}, select)) as source:
        jobs, unmeasured = pipeline.plan(source.spec, select_layers(list(source.layers()), layers), settings)
    return scheduling.biggest_first(jobs), unmeasured


def rejudge(report: Report, settings: Settings | None = None) -> Report:
    """Repeat fits, metrics and verdicts of a report under other settings, without reading weights.

    Settings that the spectra depend on (``settings.MEASURED``) keep the values of the report.

    :param settings: new settings; None keeps those of the report.
    :raises UsageError: one of the settings needs the weights.
    """
    settings = (settings or report.settings).judging(report.settings)
    fitting.check_families(settings.fits)
    rows = tuple(pipeline.rejudge(layer, settings) for layer in report.rows)
    meta = {**report.meta, "settings": settings.to_dict()}
    return Report(meta, rows, judge_report(meta, rows, settings))


def compare(
    *targets: Any,
    layers: Iterable[Selector] | Selector | None = None,
    distances: bool = True,
    settings: Settings | None = None,
    engine: str | None = None,
    progress: Any = None,
    **options: Any,
) -> Comparison:
    """Compare several models: summaries, layers matched by name, distances between them, and conclusions.

    :param targets: two or more targets of :func:`analyze`; distances are measured from the first one.
    :param distances: measure distances between the weights, which reads the models again; not possible for saved
        reports, which contain no weights.
    :param options: single settings by name, as in :func:`analyze`.
    :raises UsageError: fewer than two targets are given.
    """
    if len(targets) < 2:
        raise UsageError(f"compare needs at least two models; {len(targets)} given")
    arguments: dict[str, Any] = {"layers": layers, "settings": settings, "engine": engine, "progress": progress}
    reports = [analyze(target, **arguments, **options) for target in targets]
    pair_settings = (settings or Settings()).changed(**options)
    has_weights = [_load_saved_report(target) is None for target in targets]

    def measure_pair(measure: Callable[[Job], Any], i: int, j: int) -> dict[str, dict[str, float]]:
        if not (distances and has_weights[i] and has_weights[j]):
            return {}
        return _measure_pair(measure, targets[i], targets[j], layers, pair_settings, engine or DEFAULT_ENGINE)

    layer_distances = [{}, *(measure_pair(pipeline.distances, i, 0) for i in range(1, len(targets)))]
    model_distances = [
        [_pooled_distance(measure_pair(pipeline.separation, i, j)) for j in range(i)] for i in range(len(targets))
    ]
    return report_comparison.compare(reports, layer_distances, _symmetric_matrix(model_distances))


def _to_list(layers: Iterable[Selector] | Selector | None) -> list[Selector] | None:
    """Return the selectors as a list; None stands for all layers."""
    if layers is None:
        return None
    return [layers] if isinstance(layers, str | int) else list(layers)


def _check_heads(target: Any, refs: list[LayerRef], settings: Settings) -> None:
    """Check that ``per_head`` is possible.

    :raises UsageError: no layer states its number of attention heads.
    """
    if settings.per_head and not any(ref.heads > 1 for ref in refs):
        raise UsageError(
            f"per_head: {targets.name_of(target)} does not state its number of attention heads; analyze a folder with "
            "its config.json"
        )


def _rows_in_order(layers: list[LayerReport]) -> tuple[LayerReport, ...]:
    """Sort rows by the position of their tensor in the model, and matrices of a layer by their index."""
    by_name = {layer.name: layer for layer in layers}
    return tuple(sorted(by_name.values(), key=lambda row: (row.ref.index, row.ref.slice or 0)))


def _measure_pair(
    measure: Callable[[Job], Any],
    target: Any,
    base: Any,
    layers: Iterable[Selector] | Selector | None,
    settings: Settings,
    engine: str,
) -> dict[str, dict[str, float]]:
    """Call ``measure`` for each layer that both models have; return the results by name, empty without such layers."""
    from layerscope.sources.composed.update import Delta

    run = scheduling.engine_named(engine)
    try:
        with opening.opened_source(Delta(target, base)) as source:
            jobs = pipeline.plan_distances(source.spec, select_layers(list(source.layers()), layers), settings)
            results = run(measure, jobs, workers=worker_count(settings, jobs), memory=usable_memory())
            result_by_name = {job.refs[0].name: result for job, result in results}
    except (Unreadable, NoLayerMatches):  # no layer in common; the comparison has a warning for this
        return {}
    return {strip_wrapper_prefixes(name): result for name, result in result_by_name.items() if isinstance(result, dict)}


def _pooled_distance(norms: Mapping[str, Mapping[str, float]]) -> float | None:
    """Return ‖A−B‖ / √(‖A‖‖B‖) over all common layers; None without such layers or if a norm is zero or infinite."""
    model, base, difference = (sum(layer[name] for layer in norms.values()) for name in ("model", "base", "difference"))
    if not (0 < model < math.inf and 0 < base < math.inf):
        return None
    return float(math.sqrt(difference) / (model * base) ** 0.25)


def _symmetric_matrix(lower: list[list[float | None]]) -> Matrix:
    """Return the symmetric matrix with this lower triangle; empty if no pair has a distance."""
    if all(value is None for row in lower for value in row):
        return ()
    size = range(len(lower))
    return tuple(tuple(0.0 if i == j else lower[max(i, j)][min(i, j)] for j in size) for i in size)


def _load_saved_report(target: Any) -> Report | None:
    if isinstance(target, Report):
        return target
    if isinstance(target, str | Path):
        from layerscope.persistence import report_file

        if report_file.is_report(target):
            return report_file.load(target)
        if report_file.is_history(target):
            raise UsageError(
                f"{target} is a history of several reports; use `layerscope history`, or History.load(…).last for one"
            )
    return None


def _check_saved_options(report: Report, composed: bool, options: Mapping[str, Any]) -> None:
    if composed:
        raise UsageError(
            "base, intra, stacked, canonical and select need the weights, but a saved report has none; "
            "give the model itself"
        )
    report.settings.check_measured(options)


def _select_rows(report: Report, layers: Iterable[Selector] | Selector | None) -> Report:
    """Return the report with the rows that are not selected marked as skipped."""
    selectors = _to_list(layers)
    if selectors is None:
        return report
    refs = select_layers([row.ref for row in report.rows], selectors)
    rows = [
        pipeline.skipped_layer(ref, ref.skipped) if ref.skipped and not row.skipped else row
        for ref, row in zip(refs, report.rows, strict=True)
    ]
    request = {**report.meta.get("asked", {}), "layers": selectors}
    return report.replace(rows=tuple(rows), meta={**report.meta, "asked": request})
