"""Run the jobs of a report on an engine: how many at once, within which memory, and what is recorded about it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from layerscope import pipeline
from layerscope.engines import machine, scheduling
from layerscope.errors import LayerscopeError
from layerscope.progress_bars import Progress
from layerscope.records.layers import Job, LayerReport
from layerscope.records.sources import SourceSpec
from layerscope.settings import Settings
from layerscope.sources import targets

MAX_MEMORY_SHARE = 0.8  # share of the free memory that may be used by the layers measured in parallel


def usable_memory() -> int:
    """Return the bytes of memory that the layers measured in parallel may use."""
    return int(MAX_MEMORY_SHARE * machine.available_memory())


def worker_count(settings: Settings, jobs: list[Job]) -> int:
    """Return how many layers to measure in parallel: ``settings.jobs`` or the number of cores, at most one per job."""
    return min(settings.jobs or machine.available_cores(), max(1, len(jobs)))


def measure_layers(
    run: scheduling.Run,
    measure: Callable[[Job], Any],
    jobs: list[Job],
    workers: int,
    memory: int,
    update: Progress | None,
) -> list[LayerReport]:
    """Measure the layer of every job; return the layers in the order in which they finish.

    :param measure: returns the report of one job's layer.
    :param update: progress callback, called at the start and after each layer.
    """
    total = sum(job.cost for job in jobs)
    if update:
        update(None, 0.0, total)
    layers = []
    for job, result in run(measure, jobs, workers=workers, memory=memory):
        layer = layer_of_result(job, result)
        layers.append(layer)
        if update:
            update(layer, job.cost, total)
    return layers


def layer_of_result(job: Job, result: Any) -> LayerReport:
    """Return the report of a layer, or a skipped one with the reason why it failed."""
    if isinstance(result, LayerReport):
        return result
    reason = f"{result}" if isinstance(result, LayerscopeError) else f"{type(result).__name__}: {result}"
    return pipeline.skipped_layer(job.refs[0], f"failed: {reason}", failed=True)


def report_metadata(spec: SourceSpec, settings: Settings, engine: str, workers: int) -> dict[str, Any]:
    """Return what a report records about the run that made it."""
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
