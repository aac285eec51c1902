"""Measure one pair of tensors: the size of the change against rounding, its spectrum and rank, and what remains."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np

from layerscope import pipeline
from layerscope.errors import Absent
from layerscope.numerics import matrices, memory_cost, spectra, weight_change
from layerscope.numerics.rounding_noise import rounding_noise
from layerscope.records.layers import Job, LayerRef, LayerReport, Measurement
from layerscope.settings import Settings
from layerscope.sources import opening
from layerscope.sources.composed.pairs import PairSource

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

IDENTICAL = "identical to the base"
WITHIN_ROUNDING = "equal to the base up to rounding"
BOTH_IN_FLOAT64 = 16  # bytes per entry of W and W₀ in float64


def make_job(source: PairSource, ref: LayerRef, settings: Settings, with_spectra: bool) -> Job:
    """Return the job of one pair, with its cost in operations and its peak memory in bytes."""
    entries = math.prod(ref.shape)
    memory = entries * (BOTH_IN_FLOAT64 + 2 * ref.itemsize)
    if not with_spectra or not _has_spectrum(ref):
        return Job(source.spec, (ref,), settings, 4.0 * entries, memory)
    if ref.rank:
        cost = memory_cost.low_rank_flops(max(ref.shape), min(ref.shape), ref.rank)
        return Job(source.spec, (ref,), settings, cost, memory)
    k, n, m = matrices.dimensions(ref, "flat")
    cost = memory_cost.layer_flops(k, n, m, vectors=True)
    return Job(source.spec, (ref,), settings, cost, memory + memory_cost.layer_bytes(k, n, m, 8, vectors=True))


def measure_sizes(job: Job) -> LayerReport:
    """Measure the size of one change, without spectra."""
    return _measure(job, with_spectra=False)


def measure_pair(job: Job) -> LayerReport:
    """Measure one change with its spectrum, its rank and the subspaces of both matrices."""
    return _measure(job, with_spectra=True)


def _measure(job: Job, with_spectra: bool) -> LayerReport:
    ref, source = job.refs[0], cast("PairSource", opening.reopen(job.spec))
    try:
        base, tuned = source.both(ref)
        if ref.rank:
            return _measure_adapter(job, base, tuned, source)
        return _measure_tensors(job, base, tuned, source, with_spectra)
    except Absent as absence:
        return pipeline.skipped_layer(ref, str(absence), failed=absence.failed)


def _measure_tensors(
    job: Job, base: Array, tuned: Array, source: PairSource, with_spectra: bool
) -> LayerReport:  # fmt: skip
    ref = job.refs[0]
    update = source.adapter_update(ref, base)
    if _equal(base, tuned):
        not_merged = {"merge_scale": 0.0} if update is not None and update.any() else {}
        return _unchanged(ref, IDENTICAL, {"relative_change": 0.0, **not_merged})
    sizes = weight_change.sizes(np.atleast_1d(base), np.atleast_1d(tuned))
    for model, norm in (("base", sizes.base), ("tuned", sizes.tuned)):
        if not math.isfinite(norm):
            raise Absent(f"the {model} model has NaN, infinite or very large entries", failed=True)
    tuned_ref, base_ref = source.refs(ref)
    noise = max(
        rounding_noise(tuned, tuned_ref.dtype, tuned_ref.how), rounding_noise(base, base_ref.dtype, base_ref.how)
    )
    scale = sizes.base if sizes.base > 0 else sizes.tuned
    facts = {
        "relative_change": sizes.change / scale,
        "rounding_floor": noise / scale,
        "weight_cosine": sizes.dot / max(sizes.base * sizes.tuned, 1e-300),
        "rows_changed": float(sizes.rows),
    }
    if update is not None:
        facts |= _scale_of(update, base, tuned)
    if sizes.change == 0:
        return _unchanged(ref, IDENTICAL, {"relative_change": 0.0})
    if sizes.change <= weight_change.NOISE_FACTOR * noise and "merge_scale" not in facts:
        return _unchanged(ref, WITHIN_ROUNDING, facts)
    if not with_spectra or not _has_spectrum(ref):
        return pipeline.fit_and_compute(ref.name, {"weight": Measurement(ref, facts=facts)}, job.settings)
    first, second = (matrices.unfold(np.asarray(t, np.float64), ref, "flat") for t in (base, tuned))
    delta = second - first
    is_wide = np.float64 in (base.dtype, tuned.dtype)  # otherwise float32 holds what the weights hold, without an SVD
    spectrum = spectra.esd(delta if is_wide else delta.astype(np.float32))
    if len(first) == 1:
        values = np.sqrt(spectrum.evals[::-1])
        facts |= weight_change.rank_numbers(values, noise, spectrum.n, spectrum.m)
        if sizes.base > 0 and spectrum.m > 1:
            facts |= weight_change.subspace_numbers(first[0], second[0], float(values[0]))
    return pipeline.fit_and_compute(ref.name, {"weight": Measurement(ref, spectrum, facts=facts)}, job.settings)


def _measure_adapter(job: Job, base: Array, core: Array, source: PairSource) -> LayerReport:
    """Measure s·B·A from its low-rank core, whose singular values are those of the product."""
    ref = job.refs[0]
    base_norm = weight_change.sizes(np.atleast_1d(base), np.atleast_1d(base)).base
    facts: dict[str, float] = {"relative_change": 0.0, "adapter_rank": float(ref.rank)}
    change = float(np.linalg.norm(np.asarray(core, np.float64)))
    if not (math.isfinite(base_norm) and math.isfinite(change)):
        raise Absent("the adapter or its base has NaN or infinite entries", failed=True)
    if change == 0:
        return _unchanged(ref, "the adapter changes nothing: B or A is zero", facts)
    n, m = max(ref.shape), min(ref.shape)
    spectrum = spectra.product_spectrum(spectra.esd(np.asarray(core, np.float64)[None]), n, m)
    values = np.sqrt(spectrum.evals[::-1])
    facts["relative_change"] = change / base_norm if base_norm > 0 else math.inf
    facts |= weight_change.rank_numbers(values, 0.0, n, m)
    facts.pop("rank_above", None)
    facts.pop("exact_rank", None)
    part = Measurement(ref, spectrum, facts=facts)
    return pipeline.fit_and_compute(ref.name, {"weight": part}, job.settings)


def _scale_of(update: Floats, base: Array, tuned: Array) -> dict[str, float]:
    """Return the scale c at which an adapter's update U is in ΔW: ⟨ΔW, U⟩/‖U‖²."""
    square = float(np.vdot(update, update))
    if square == 0:
        return {}
    delta = np.subtract(tuned, base, dtype=np.float64)
    return {"merge_scale": float(np.vdot(delta, update)) / square}


def _unchanged(ref: LayerRef, reason: str, facts: dict[str, float]) -> LayerReport:
    return LayerReport(ref.name, {"weight": Measurement(ref, skipped=reason, facts=facts)})


def _equal(base: Array, tuned: Array) -> bool:
    """Whether two tensors have the same values; NaN equals NaN."""
    if base.dtype == tuned.dtype and base.shape == tuned.shape:
        first, second = (np.ascontiguousarray(tensor).view(np.uint8) for tensor in (base, tuned))
        return bool(np.array_equal(first, second))
    return bool(np.array_equal(np.asarray(base, np.float64), np.asarray(tuned, np.float64)))


def _has_spectrum(ref: LayerRef) -> bool:
    return {"o", "i"} <= {*ref.axes}
