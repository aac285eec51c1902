"""What changed between a model and its base: the audit behind ``layerscope diff``."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from layerscope import pipeline
from layerscope.audits.block_losses import measure_losses
from layerscope.audits.merge_check import merge_check
from layerscope.audits.pair_measurement import make_job, measure_pair, measure_sizes
from layerscope.engines import scheduling
from layerscope.layer_jobs import measure_layers, report_metadata, usable_memory, worker_count
from layerscope.progress_bars import progress_callback
from layerscope.records.merge_check import TaskVectors
from layerscope.records.report import Report
from layerscope.rules.judging import judge_report
from layerscope.settings import Settings
from layerscope.sources import opening, targets
from layerscope.sources.composed.pairs import Pairs, PairSource
from layerscope.sources.tokenizers import describe_tokenizer_difference
from layerscope.tensor_names import Selector
from layerscope.tensor_names import select as select_layers


def diff_several(base: Any, tuned: Sequence[Any], **options: Any) -> list[Report]:
    """Compare several models with one base, such as the checkpoints of a run in their order.

    Every report also has the cosines between the updates of all models, and the distance from the model before it
    relative to the base, in ``meta["diff"]``; an adapter has none, because its update is never formed.

    :param options: those of :func:`diff`.
    """
    reports = [diff(base, target, **options) for target in tuned]
    if len(reports) > 1 and not any("adapter_rank" in row.parts["weight"].facts for r in reports for row in r.rows):
        whole = merge_check(base, *tuned, layers=options.get("layers"), spectra=False).whole
        for i, report in enumerate(reports):
            report.meta["diff"]["cosines"] = list(whole.cosines[i])
            report.meta["diff"]["step"] = _distance(whole, i, i - 1) if i else whole.relative[0]
    return reports


def _distance(whole: TaskVectors, i: int, j: int) -> float:
    """Return ‖Wᵢ − Wⱼ‖/‖W₀‖ by the law of cosines."""
    a, b, cosine = whole.relative[i], whole.relative[j], whole.cosines[i][j] or 0.0
    return math.sqrt(max(0.0, a * a + b * b - 2 * a * b * cosine))


def diff(
    base: Any,
    tuned: Any,
    *,
    layers: Iterable[Selector] | Selector | None = None,
    adapter: Any = None,
    spectra: bool = True,
    evaluate: Mapping[str, Any] | None = None,
    by_block: bool = False,
    settings: Settings | None = None,
    engine: str = "threads",
    progress: Any = None,
    **options: Any,
) -> Report:
    """Compare a model with its base, tensor by tensor, and report what changed.

    Weights, embeddings, norms and biases are compared; one tensor of each model is in memory per worker. ΔW = W − W₀.

    :param base: the model before the change: a file, a folder, a hub id, a live model or a dict of arrays.
    :param tuned: the model after it; also the folder of a LoRA adapter, whose update s·B·A is never formed.
    :param layers: indices, kinds, names or globs of the tensors to compare; None compares all.
    :param adapter: a LoRA adapter that should be merged into ``tuned``: its scale in the model is measured.
    :param spectra: False leaves out singular values, ranks and subspaces, and runs at the speed of reading.
    :param evaluate: name of a data set, such as "train" or "held out" → :class:`~layerscope.TorchEvaluator` or another
        function from weights to metrics including "loss": measures the loss of base and tuned model on each.
    :param by_block: with ``evaluate``, also put back the tensors of each block to the base's, one block at a time.
    :param settings: settings for measuring and judging.
    :param engine: "threads", "serial" or "processes".
    :param progress: as in :func:`layerscope.analyze`.
    :param options: single settings by name.
    :return: a report with one row per tensor of ``tuned``. A tensor that is not compared, or that did not change, has
        the reason in ``skipped``.
    :raises TargetError: a model cannot be read, or the two have no tensor in common.
    """
    settings = (settings or Settings()).changed(**options)
    run = scheduling.engine_named(engine)
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    with opening.opened_source(Pairs(tuned, base, adapter)) as source:
        assert isinstance(source, PairSource)
        refs = select_layers(list(source.layers()), layers)
        jobs = [make_job(source, ref, settings, spectra) for ref in refs if not ref.skipped]
        unmeasured = [pipeline.skipped_layer(ref, ref.skipped) for ref in refs if ref.skipped]
        memory = usable_memory()
        workers = worker_count(settings, jobs)
        with progress_callback(progress, targets.name_of(source.spec.target)) as update:
            measure = measure_pair if spectra else measure_sizes
            measured = measure_layers(run, measure, jobs, workers, memory, update)
        meta = report_metadata(source.spec, settings, engine, workers)
    meta |= {"started": started.isoformat(timespec="seconds"), "seconds": round(time.perf_counter() - clock, 3)}
    pair = {"base": targets.name_of(base), "tuned": targets.name_of(tuned)}
    losses = {"losses": measure_losses(base, tuned, evaluate, by_block)} if evaluate else {}
    difference = describe_tokenizer_difference(base, tuned)
    pair |= {"tokenizers": difference} if difference else {}
    meta |= {"diff": pair | ({"adapter": targets.name_of(adapter)} if adapter is not None else {}) | losses}
    rows = tuple(sorted([*unmeasured, *measured], key=lambda row: row.ref.index))
    return Report(meta, rows, judge_report(meta, rows, settings))
