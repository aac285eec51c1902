"""One layer, on a worker: read → unfold → spectrum → fits → metrics. Nothing after ``measure`` reads weights."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from layerscope import fits, metrics, sources
from layerscope.errors import Absent
from layerscope.numerics import matrices, spectra
from layerscope.settings import Settings
from layerscope.types import Job, LayerRef, LayerReport, Measurement, SourceSpec, Spectrum

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")


def plan(
    spec: SourceSpec, refs: Iterable[LayerRef], settings: Settings, memory: int | None = None
) -> tuple[list[Job], list[LayerReport]]:
    """(jobs, layers that need no work): a job per layer to be measured, with its cost and memory.

    A layer that would not fit into ``memory`` bytes even alone is not begun.
    """
    jobs, idle = [], []
    for ref in refs:
        if ref.skipped:
            idle.append(skipped(ref, ref.skipped))
            continue
        k, n, m = matrices.dimensions(ref, settings.conv)
        job = Job(spec, (ref,), settings, spectra.cost(k, n, m), spectra.memory(k, n, m, ref.itemsize))
        if settings.max_cost is not None and job.cost > settings.max_cost * 1e9:
            idle.append(skipped(ref, f"costs {job.cost / 1e9:.3g} Gflop, more than max_cost = {settings.max_cost:g}"))
        elif memory is not None and job.memory > memory:
            need = f"needs {job.memory / 2**30:.1f} GiB of memory, {memory / 2**30:.1f} GiB are free"
            idle.append(skipped(ref, need, failed=True))
        else:
            jobs.append(job)
    return jobs, idle


def measure(job: Job) -> LayerReport:
    """Measure every role of one layer. A layer that cannot be measured says why; only bugs raise."""
    parts = {ref.role: _measure(job, ref) for ref in job.refs}
    return complete(job.refs[0].name, parts, job.settings)


def complete(name: str, parts: dict[str, Measurement], settings: Settings) -> LayerReport:
    """Fits and metrics of measured spectra; also what re-judging a saved layer does."""
    fitted = {
        role: replace(part, fits=fits.fit_all(part.spectrum, settings)) if part.spectrum is not None else part
        for role, part in parts.items()
    }
    if fitted["weight"].skipped:
        return LayerReport(name, fitted)
    values, absent = metrics.compute(fitted, settings)
    return LayerReport(name, fitted, values, absent)


def rejudge(layer: LayerReport, settings: Settings) -> LayerReport:
    """The same layer under other settings, without its matrix."""
    return complete(layer.name, dict(layer.parts), settings)


def skipped(ref: LayerRef, reason: str, *, failed: bool = False) -> LayerReport:
    """The report of a layer that was not measured."""
    return LayerReport(ref.name, {"weight": Measurement(ref, skipped=reason, failed=failed)})


def _measure(job: Job, ref: LayerRef) -> Measurement:
    start = time.perf_counter()
    try:
        spectrum = _spectrum(job, ref)
    except Absent as why:
        return Measurement(ref, skipped=str(why), failed=True, seconds=time.perf_counter() - start)
    return Measurement(ref, spectrum, seconds=time.perf_counter() - start)


def _spectrum(job: Job, ref: LayerRef) -> Spectrum:
    tensor = sources.reopen(job.spec).read(ref)
    spectrum = spectra.esd(matrices.unfold(tensor, ref, job.settings.conv), symmetric=ref.symmetric)
    return spectra.scaled(spectrum, job.settings.conv_factor if ref.kind in CONVOLUTIONS else 1.0)
