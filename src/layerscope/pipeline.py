"""Measure one layer on a worker: read → unfold → spectrum → fits → metrics. Only ``measure`` reads weights."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from layerscope.errors import Absent
from layerscope.fits import fitting
from layerscope.metrics import computing
from layerscope.numerics import (
    correlation_traps,
    localization,
    matrices,
    memory_cost,
    random_matrix,
    similarity,
    spectra,
)
from layerscope.numerics.spectrum import Mode, Spectrum
from layerscope.numerics.unit_norms import unit_norms
from layerscope.records.layers import Job, LayerRef, LayerReport, Measurement
from layerscope.records.sources import HasFacts, SourceSpec
from layerscope.settings import Settings
from layerscope.sources import opening

if TYPE_CHECKING:
    from layerscope.array_types import Array
    from layerscope.sources.composed.update import DeltaSource

CONVOLUTION_KINDS = ("conv1d", "conv2d", "conv3d")
FACTOR_ROLES = ("input", "gradient", "fisher")  # covariances: power laws are fitted only to weights
SHUFFLE_ROLE, WINDOWS_ROLE = "shuffle", "windows"  # roles of matrices derived from a layer's own entries


def plan(
    spec: SourceSpec, refs: Iterable[LayerRef], settings: Settings, memory: int | None = None
) -> tuple[list[Job], list[LayerReport]]:
    """Return (jobs, layers that are not measured), with one job per layer that states its cost and memory.

    :param memory: bytes available; a layer that needs more, even alone, is not measured.
    """
    jobs: list[Job] = []
    unmeasured: list[LayerReport] = []
    for ref in report_rows(refs, settings):
        if ref.role != "weight":
            if jobs and jobs[-1].refs[0].name == ref.name:  # all roles of one layer are one job
                jobs[-1] = _add_role(jobs[-1], ref, settings)
            continue
        if ref.skipped:
            unmeasured.append(skipped_layer(ref, ref.skipped))
            continue
        k, _, m = matrices.dimensions(ref, settings.conv)
        job = Job(spec, (ref,), settings, *_estimate(ref, settings))
        if settings.max_evals is not None and (ref.rank or k * m) > settings.max_evals:
            unmeasured.append(skipped_layer(ref, f"{k * m} eigenvalues, more than max_evals = {settings.max_evals}"))
        elif settings.max_cost is not None and job.cost > settings.max_cost * 1e9:
            unmeasured.append(
                skipped_layer(ref, f"costs {job.cost / 1e9:.3g} Gflop, more than max_cost = {settings.max_cost:g}")
            )
        elif memory is not None and job.memory > memory:
            reason = f"needs {job.memory / 2**30:.1f} GiB of memory, {memory / 2**30:.1f} GiB are free"
            unmeasured.append(skipped_layer(ref, reason, failed=True))
        else:
            jobs.append(job)
    return jobs, unmeasured


def _add_role(job: Job, ref: LayerRef, settings: Settings) -> Job:
    """Add a role of the same layer to a job; roles are read one after the other, so memory is that of the largest."""
    flops, memory = _estimate(ref, settings)
    return replace(job, refs=(*job.refs, ref), cost=job.cost + flops, memory=max(job.memory, memory))


def report_rows(refs: Iterable[LayerRef], settings: Settings) -> Iterator[LayerRef]:
    """Yield the rows of a report with unique names: layers, or their matrices without ``pool``."""
    layers = list(refs)
    count_by_name = dict.fromkeys((ref.name for ref in layers), 1)
    for layer in layers:
        for row in _split_into_rows(layer, settings):
            name = row.name
            while row.slice is not None and name in count_by_name:  # another tensor may have the name of this matrix
                count_by_name[row.name] = number = count_by_name.get(row.name, 1) + 1
                name = f"{row.name}#{number}"
            count_by_name[name] = 1
            yield row if name == row.name else replace(row, name=name)


def _split_into_rows(ref: LayerRef, settings: Settings) -> list[LayerRef]:
    """Split a layer into rows: one per matrix without ``pool``; with ``per_head``, each head is a matrix."""
    if ref.skipped:
        return [ref]
    if settings.per_head and ref.heads > 1 and ref.groups == 1:
        axes = ref.axes if ref.heads_on == "o" else ref.axes.translate(str.maketrans("oi", "io"))
        how = ", ".join(filter(None, (ref.how, f"{ref.heads} heads")))
        ref = replace(ref, groups=ref.heads, axes=axes, how=how)
    k, _, _ = matrices.dimensions(ref, settings.conv)
    if settings.pool or k == 1 or ref.rank:
        return [ref]
    return [replace(ref, name=f"{ref.name}[{i}]", slice=i, entries=ref.params // k) for i in range(k)]


def measure(job: Job) -> LayerReport:
    """Measure every role of one layer.

    A layer that cannot be measured is returned with the reason; exceptions are bugs.
    """
    parts: dict[str, Measurement] = {}
    for ref in job.refs:
        parts |= _measure_role(job, ref)
    return fit_and_compute(job.refs[0].name, parts, job.settings)


def distances(job: Job) -> dict[str, float]:
    """Measure the distances between one layer of a :class:`~layerscope.sources.composed.update.Delta` and its base."""
    ref, conv = job.refs[0], job.settings.conv
    source = cast("DeltaSource", opening.reopen(job.spec))
    stack, base_stack = (matrices.unfold(tensor, ref, conv) for tensor in source.both(ref))
    return similarity.distances(base_stack, stack)


def separation(job: Job) -> dict[str, float]:
    """Return the squared Frobenius norms of W, W₀ and W − W₀ for one layer of a weight update."""
    source = cast("DeltaSource", opening.reopen(job.spec))
    weight, base = (tensor.astype(np.float64) for tensor in source.both(job.refs[0]))
    norms = {"model": weight, "base": base, "difference": weight - base}
    return {name: float(np.square(tensor).sum()) for name, tensor in norms.items()}


def plan_distances(spec: SourceSpec, refs: Iterable[LayerRef], settings: Settings) -> list[Job]:
    """Return one job for each layer that both models have."""
    jobs = []
    for ref in refs:
        if not ref.skipped:
            k, n, m = matrices.dimensions(ref, settings.conv)
            memory = memory_cost.distance_bytes(k, n, m, ref.itemsize)
            jobs.append(Job(spec, (ref,), settings, memory_cost.distance_flops(k, n, m), memory))
    return jobs


def fit_and_compute(name: str, parts: dict[str, Measurement], settings: Settings) -> LayerReport:
    """Compute fits and metrics from measured spectra, when measuring a layer and when judging a saved one again."""
    fitted = {
        role: replace(part, fits=fitting.fit_all(part.spectrum, settings, families_for_role(role, settings)))
        if part.spectrum is not None
        else part
        for role, part in parts.items()
    }
    if fitted["weight"].skipped:
        return LayerReport(name, fitted)
    values, absent = computing.compute(fitted, settings)
    return LayerReport(name, fitted, values, absent)


def families_for_role(role: str, settings: Settings) -> tuple[str, ...]:
    """Return the families to fit to the spectrum of a role, e.g. only the random bulk for shuffles."""
    if role.startswith(SHUFFLE_ROLE):
        return ("marchenko_pastur",)
    if role in FACTOR_ROLES:
        return ()
    return ("power_law",) if role == WINDOWS_ROLE else settings.fits


def rejudge(layer: LayerReport, settings: Settings) -> LayerReport:
    """Repeat fits and metrics of a layer under other settings, without reading its weights."""
    return fit_and_compute(layer.name, dict(layer.parts), settings)


def skipped_layer(ref: LayerRef, reason: str, *, failed: bool = False) -> LayerReport:
    """Return the report of a layer that was not measured, with the reason."""
    return LayerReport(ref.name, {"weight": Measurement(ref, skipped=reason, failed=failed)})


def _estimate(ref: LayerRef, settings: Settings) -> tuple[float, int]:
    """Estimate (floating-point operations, peak bytes) of measuring one role of a layer."""
    k, n, m = matrices.dimensions(ref, settings.conv)
    if ref.rank:
        return memory_cost.low_rank_flops(n, m, ref.rank), memory_cost.low_rank_bytes(n, m, ref.rank, ref.itemsize)
    shuffles = settings.shuffles_of(k * m) if settings.randomize else 0
    vectors = settings.vectors
    flops = memory_cost.layer_flops(k, n, m, shuffles=shuffles, vectors=vectors, window=settings.window)
    return flops, memory_cost.layer_bytes(k, n, m, ref.itemsize, shuffles=shuffles, vectors=vectors)


def _measure_role(job: Job, ref: LayerRef) -> dict[str, Measurement]:
    """Measure one role of a layer, and the shuffles and windows derived from it."""
    start, settings = time.perf_counter(), job.settings
    try:
        source = opening.reopen(job.spec)
        facts = source.facts(ref) if isinstance(source, HasFacts) else {}
        tensor = source.read(ref)
        stack = matrices.unfold(tensor, replace(ref, axes="oi", groups=1) if ref.rank else ref, settings.conv)
        if settings.vectors or settings.randomize or settings.window:
            stack = np.asarray(stack)
        spectrum = _compute_spectrum(stack, ref, settings)
        modes = localization.all_modes(stack) if settings.vectors and not (ref.rank or ref.symmetric) else ()
        modes = tuple(replace(mode, value=mode.value * _eigenvalue_factor(ref, settings)) for mode in modes)
    except Absent as absence:
        seconds = time.perf_counter() - start
        return {ref.role: Measurement(ref, skipped=str(absence), failed=absence.failed, seconds=seconds)}
    if ref.role == "weight":
        facts = {**facts, **unit_norms(stack, ref, settings.conv)}
    parts = {ref.role: Measurement(ref, spectrum, seconds=time.perf_counter() - start, modes=modes, facts=facts)}
    if ref.role == "weight" and not (ref.rank or ref.symmetric):
        parts |= {part.ref.role: part for part in _measure_derived(stack, ref, settings)}
    return parts


def _compute_spectrum(stack: Array, ref: LayerRef, settings: Settings) -> Spectrum:
    if ref.symmetric and not ref.rank and stack.shape[2] > settings.max_dim:
        return spectra.largest_eigenvalues(stack)
    spectrum = spectra.esd(stack, symmetric=ref.symmetric)
    if ref.rank:
        spectrum = spectra.product_spectrum(spectrum, max(ref.shape), min(ref.shape))
    spectrum = spectra.scaled(spectrum, _eigenvalue_factor(ref, settings))
    return spectra.inverted(spectrum) if settings.inverse else spectrum


def _eigenvalue_factor(ref: LayerRef, settings: Settings) -> float:
    """Return the factor on the eigenvalues of a layer: ``conv_factor`` for convolutions, otherwise 1."""
    return settings.conv_factor if ref.kind in CONVOLUTION_KINDS else 1.0


def _measure_derived(stack: Array, ref: LayerRef, settings: Settings) -> Iterator[Measurement]:
    """Measure shuffles and windows of a layer's matrices, each as a separate role."""
    shuffler = random_matrix.Shuffler(stack) if settings.randomize else None
    for number in range(settings.shuffles_of(stack.shape[0] * stack.shape[2]) if shuffler else 0):
        assert shuffler is not None
        start, role = time.perf_counter(), replace(ref, role=f"{SHUFFLE_ROLE}{number + 1}")
        seed = [settings.seed, max(ref.stored, 0), ref.slice or 0, number]
        spectrum, traps = correlation_traps.analyze_shuffle(shuffler, seed, settings.spike_rate)
        factor = _eigenvalue_factor(ref, settings)
        modes = tuple(_trap_in_layer(mode, origin, ref, settings, factor, stack.shape[2]) for mode, origin in traps)
        spectrum = spectra.scaled(spectrum, factor)
        yield Measurement(role, spectrum, seconds=time.perf_counter() - start, modes=modes)
    if settings.window:
        start, role = time.perf_counter(), replace(ref, role=WINDOWS_ROLE)
        if stack.shape[1] < 2 * settings.window or stack.shape[2] < settings.window:
            yield Measurement(role, skipped=f"smaller than a window of {2 * settings.window}×{settings.window}")
        else:
            spectrum = _compute_spectrum(matrices.windows(stack, settings.window), ref, settings)
            yield Measurement(role, spectrum, seconds=time.perf_counter() - start)


def _trap_in_layer(mode: Mode, origin: int, ref: LayerRef, settings: Settings, factor: float, columns: int) -> Mode:
    """Convert a trap to the layer's units, and its position to an index in the layer's tensor."""
    scaled = replace(mode, value=mode.value * factor, edge=mode.edge * factor)
    if origin < 0:
        return scaled
    return replace(scaled, entry=matrices.locate(ref, settings.conv, mode.slice, *divmod(origin, columns)))
