"""One layer, on a worker: read → unfold → spectrum → fits → metrics. Nothing after ``measure`` reads weights."""

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
from layerscope.records.layers import Job, LayerRef, LayerReport, Measurement
from layerscope.records.sources import HasFacts, SourceSpec
from layerscope.settings import Settings
from layerscope.sources import opening

if TYPE_CHECKING:
    from layerscope.array_types import Array
    from layerscope.sources.composed.update import DeltaSource

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
FACTORS = (
    "input",
    "gradient",
    "fisher",
)  # roles of what comes in and back, and of a layer's block: their tails are no power laws of weights
SHUFFLE, WINDOWS = "shuffle", "windows"  # roles of what is made from a layer's own entries


def plan(
    spec: SourceSpec, refs: Iterable[LayerRef], settings: Settings, memory: int | None = None
) -> tuple[list[Job], list[LayerReport]]:
    """(jobs, layers that need no work): a job per layer to be measured, with its cost and memory.

    A layer that would not fit into ``memory`` bytes even alone is not begun.
    """
    jobs: list[Job] = []
    idle: list[LayerReport] = []
    for ref in rows_of(refs, settings):
        if ref.role != "weight":
            if jobs and jobs[-1].refs[0].name == ref.name:  # all roles of one layer are one job
                jobs[-1] = _joined(jobs[-1], ref, settings)
            continue
        if ref.skipped:
            idle.append(skipped(ref, ref.skipped))
            continue
        k, n, m = matrices.dimensions(ref, settings.conv)
        job = Job(spec, (ref,), settings, _cost(k, n, m, ref, settings), _memory(k, n, m, ref, settings))
        if settings.max_evals is not None and (ref.rank or k * m) > settings.max_evals:
            idle.append(skipped(ref, f"{k * m} eigenvalues, more than max_evals = {settings.max_evals}"))
        elif settings.max_cost is not None and job.cost > settings.max_cost * 1e9:
            idle.append(skipped(ref, f"costs {job.cost / 1e9:.3g} Gflop, more than max_cost = {settings.max_cost:g}"))
        elif memory is not None and job.memory > memory:
            need = f"needs {job.memory / 2**30:.1f} GiB of memory, {memory / 2**30:.1f} GiB are free"
            idle.append(skipped(ref, need, failed=True))
        else:
            jobs.append(job)
    return jobs, idle


def _joined(job: Job, ref: LayerRef, settings: Settings) -> Job:
    """The job with one more role of its layer; what is read is let go before the next is."""
    k, n, m = matrices.dimensions(ref, settings.conv)
    memory = max(job.memory, _memory(k, n, m, ref, settings))
    return replace(job, refs=(*job.refs, ref), cost=job.cost + _cost(k, n, m, ref, settings), memory=memory)


def rows_of(refs: Iterable[LayerRef], settings: Settings) -> Iterator[LayerRef]:
    """The rows of a report, under names that are unique: layers, or their matrices without ``pool``."""
    layers = list(refs)
    taken = dict.fromkeys((ref.name for ref in layers), 1)
    for layer in layers:
        for row in _rows(layer, settings):
            name = row.name
            while row.slice is not None and name in taken:  # a tensor may be called what a matrix of another is called
                taken[row.name] = again = taken.get(row.name, 1) + 1
                name = f"{row.name}#{again}"
            taken[name] = 1
            yield row if name == row.name else replace(row, name=name)


def _rows(ref: LayerRef, settings: Settings) -> list[LayerRef]:
    """The rows that a layer becomes: its heads apart with ``per_head``, a row per matrix without ``pool``."""
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
    """Measure every role of one layer. A layer that cannot be measured says why; only bugs raise."""
    parts: dict[str, Measurement] = {}
    for ref in job.refs:
        parts |= _measure(job, ref)
    return complete(job.refs[0].name, parts, job.settings)


def distances(job: Job) -> dict[str, float]:
    """Distances of one layer of a :class:`~layerscope.sources.composed.update.Delta` from the base model's."""
    ref, conv = job.refs[0], job.settings.conv
    source = cast("DeltaSource", opening.reopen(job.spec))
    mine, theirs = (matrices.unfold(tensor, ref, conv) for tensor in source.both(ref))
    return similarity.distances(theirs, mine)


def separation(job: Job) -> dict[str, float]:
    """Squared Frobenius norms of W, W₀ and W − W₀, of one layer of a weight update."""
    source = cast("DeltaSource", opening.reopen(job.spec))
    mine, theirs = (tensor.astype(np.float64) for tensor in source.both(job.refs[0]))
    norms = {"model": mine, "base": theirs, "difference": mine - theirs}
    return {name: float(np.square(tensor).sum()) for name, tensor in norms.items()}


def plan_distances(spec: SourceSpec, refs: Iterable[LayerRef], settings: Settings) -> list[Job]:
    """A job per layer that both models have."""
    jobs = []
    for ref in refs:
        if not ref.skipped:
            k, n, m = matrices.dimensions(ref, settings.conv)
            memory = 2 * ref.params * ref.itemsize + 8 * (3 * n * m + 6 * m * m)
            jobs.append(Job(spec, (ref,), settings, 3 * memory_cost.cost(k, n, m), memory))
    return jobs


def complete(name: str, parts: dict[str, Measurement], settings: Settings) -> LayerReport:
    """Fits and metrics of measured spectra; also what re-judging a saved layer does."""
    fitted = {
        role: replace(part, fits=fitting.fit_all(part.spectrum, settings, families(role, settings)))
        if part.spectrum is not None
        else part
        for role, part in parts.items()
    }
    if fitted["weight"].skipped:
        return LayerReport(name, fitted)
    values, absent = computing.compute(fitted, settings)
    return LayerReport(name, fitted, values, absent)


def families(role: str, settings: Settings) -> tuple[str, ...]:
    """What is fitted to the spectrum of a role: to a shuffle its bulk, to windows their tail."""
    if role.startswith(SHUFFLE):
        return ("marchenko_pastur",)
    if role in FACTORS:
        return ()
    return ("power_law",) if role == WINDOWS else settings.fits


def rejudge(layer: LayerReport, settings: Settings) -> LayerReport:
    """The same layer under other settings, without its matrix."""
    return complete(layer.name, dict(layer.parts), settings)


def skipped(ref: LayerRef, reason: str, *, failed: bool = False) -> LayerReport:
    """The report of a layer that was not measured."""
    return LayerReport(ref.name, {"weight": Measurement(ref, skipped=reason, failed=failed)})


def _cost(k: int, n: int, m: int, ref: LayerRef, settings: Settings) -> float:
    if ref.rank:
        return memory_cost.cost(1, ref.rank, ref.rank) + 2.0 * (n + m) * ref.rank**2
    times = (
        1 + settings.shuffles_of(k * m) * settings.randomize + 10 * settings.vectors
    )  # eigenvectors: about ten times
    windows = memory_cost.cost(100 * k, 2 * settings.window, settings.window) if settings.window <= m else 0.0
    return times * memory_cost.cost(k, n, m) + windows


def _memory(k: int, n: int, m: int, ref: LayerRef, settings: Settings) -> int:
    if ref.rank:
        return (n + m) * ref.rank * (ref.itemsize + 8)
    need = memory_cost.memory(k, n, m, ref.itemsize)
    if settings.randomize:
        need += k * n * m * (8 + 2 * ref.itemsize)
    return need + 3 * 8 * m * m * settings.vectors


def _measure(job: Job, ref: LayerRef) -> dict[str, Measurement]:
    """The measurement of one role, and of what is made from its matrices."""
    start, settings = time.perf_counter(), job.settings
    try:
        source = opening.reopen(job.spec)
        facts = source.facts(ref) if isinstance(source, HasFacts) else {}
        tensor = source.read(ref)
        stack = matrices.unfold(tensor, replace(ref, axes="oi", groups=1) if ref.rank else ref, settings.conv)
        if settings.vectors or settings.randomize or settings.window:
            stack = np.asarray(stack)
        spectrum = _spectrum(stack, ref, settings)
        modes = localization.every_mode(stack) if settings.vectors and not (ref.rank or ref.symmetric) else ()
        modes = tuple(replace(mode, value=mode.value * _factor(ref, settings)) for mode in modes)
    except Absent as why:
        seconds = time.perf_counter() - start
        return {ref.role: Measurement(ref, skipped=str(why), failed=why.failed, seconds=seconds)}
    parts = {ref.role: Measurement(ref, spectrum, seconds=time.perf_counter() - start, modes=modes, facts=facts)}
    if ref.role == "weight" and not (ref.rank or ref.symmetric):
        parts |= {part.ref.role: part for part in _made(stack, ref, settings)}
    return parts


def _spectrum(stack: Array, ref: LayerRef, settings: Settings) -> Spectrum:
    if ref.symmetric and not ref.rank and stack.shape[2] > settings.max_dim:
        return spectra.top(stack)
    spectrum = spectra.esd(stack, symmetric=ref.symmetric)
    if ref.rank:
        spectrum = spectra.of_product(spectrum, max(ref.shape), min(ref.shape))
    spectrum = spectra.scaled(spectrum, _factor(ref, settings))
    return spectra.inverted(spectrum) if settings.inverse else spectrum


def _factor(ref: LayerRef, settings: Settings) -> float:
    return settings.conv_factor if ref.kind in CONVOLUTIONS else 1.0


def _made(stack: Array, ref: LayerRef, settings: Settings) -> Iterator[Measurement]:
    """Shuffles and windows of a layer's matrices, each a role of its own."""
    shuffler = random_matrix.Shuffler(stack) if settings.randomize else None
    for number in range(settings.shuffles_of(stack.shape[0] * stack.shape[2]) if shuffler else 0):
        assert shuffler is not None
        start, role = time.perf_counter(), replace(ref, role=f"{SHUFFLE}{number + 1}")
        seed = [settings.seed, ref.index, ref.slice or 0, number]
        spectrum, found = correlation_traps.shuffled(shuffler, seed, settings.spike_rate)
        factor = _factor(ref, settings)
        modes = tuple(_placed(mode, origin, ref, settings, factor, stack.shape[2]) for mode, origin in found)
        spectrum = spectra.scaled(spectrum, factor)
        yield Measurement(role, spectrum, seconds=time.perf_counter() - start, modes=modes)
    if settings.window:
        start, role = time.perf_counter(), replace(ref, role=WINDOWS)
        if stack.shape[1] < 2 * settings.window or stack.shape[2] < settings.window:
            yield Measurement(role, skipped=f"smaller than a window of {2 * settings.window}×{settings.window}")
        else:
            spectrum = _spectrum(matrices.windows(stack, settings.window), ref, settings)
            yield Measurement(role, spectrum, seconds=time.perf_counter() - start)


def _placed(mode: Mode, origin: int, ref: LayerRef, settings: Settings, factor: float, columns: int) -> Mode:
    """A trap in the layer's units, its entry by its index in the layer's tensor."""
    scaled = replace(mode, value=mode.value * factor, edge=mode.edge * factor)
    if origin < 0:
        return scaled
    return replace(scaled, entry=matrices.locate(ref, settings.conv, mode.slice, *divmod(origin, columns)))
