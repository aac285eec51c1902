"""Which format each tensor should get: the audit behind ``layerscope quantize plan``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.audits.live_data import LiveData
from layerscope.errors import Unreadable, UsageError
from layerscope.layer_jobs import usable_memory
from layerscope.lenses.learning_statistics.output_change import measure_changes
from layerscope.lenses.learning_statistics.output_damage import DRAWS, Change, predict_damage
from layerscope.live import fingerprints
from layerscope.numerics.format_assignment import assign
from layerscope.numerics.matrices import pick
from layerscope.persistence.result_store import ResultStore
from layerscope.records.layers import LayerRef
from layerscope.records.quantization import PlannedTensor, PlanPoint, QuantizationPlan
from layerscope.settings import Settings
from layerscope.sources import opening, targets
from layerscope.sources.quantization.weight_formats import FAMILIES, WeightFormat, format_named
from layerscope.tensor_names import Selector
from layerscope.tensor_names import select as select_layers
from layerscope.tensor_roles import block_of, role_of

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

Progress = Callable[[int, int], Any]
FRONTIER_POINTS = 24  # budgets between the smallest and the largest size that the picture shows
SMALLEST = 32  # entries on the last axis of a tensor that is quantized; smaller ones stay as they are


def quantization_plan(
    model: Any,
    live: LiveData,
    *,
    bits: float | None = None,
    gigabytes: float | None = None,
    formats: Sequence[str] = FAMILIES["int"],
    layers: Iterable[Selector] | Selector | None = None,
    draws: int = DRAWS,
    measure: bool = False,
    store: Any = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> QuantizationPlan:
    """Choose a format for every weight matrix so that the predicted damage is smallest under a budget.

    The damage of each tensor in each format is predicted from the Fisher information of the outputs, with the format's
    own rounding; damages of different tensors add up. The assignment is exact.

    :param model: name of the model for the report.
    :param live: the model with its examples; see :func:`live_data` and :func:`text_data`.
    :param bits: budget in bits per weight, over the tensors of the plan.
    :param gigabytes: budget in GB of these tensors instead.
    :param formats: names of candidate formats.
    :param layers: indices, kinds, names or globs of the tensors to plan; by default all weight matrices and embeddings.
    :param draws: labels drawn per example.
    :param measure: also measure the divergence of the plan and of the uniform formats on the held-out examples.
    :param store: file in which predicted damages are kept, so that another budget or an interrupted run continues.
    :param settings: the seed of the draws.
    :param progress: called with (steps done, steps in total) of each stage.
    :raises UsageError: no budget, or one that no assignment meets or that every assignment meets.
    """
    if (bits is None) == (gigabytes is None):
        raise UsageError("a plan needs one budget: bits per weight or a size")
    settings = settings or Settings()
    candidates = [format_named(name) for name in dict.fromkeys(formats)]
    refs = _refs_to_plan(live.model, layers)
    damages, errors = _predict(live, refs, candidates, draws, settings, store, progress)
    entries = np.array([ref.params for ref, _ in refs], float)
    sizes = entries[:, None] * np.array([each.bits for each in candidates])
    budget = bits if bits is not None else 8e9 * float(gigabytes or 0) / entries.sum()
    _check_budget(budget, damages, sizes, entries)
    chosen = assign(damages, sizes, budget * entries.sum())
    tensors = tuple(
        _planned(ref, candidates, damages[i], errors[i], candidates[chosen[i]]) for i, (ref, _) in enumerate(refs)
    )
    plan = _point("plan", chosen, damages, sizes, entries)
    uniform = [(each, _uniform_choice(each, candidates, damages, sizes)) for each in candidates]
    points = [_point(each.name, choice, damages, sizes, entries) for each, choice in uniform]
    if measure:
        cases = [chosen, *(choice for _, choice in uniform)]
        measured = measure_changes(
            live.model, live.held_out, [_changes(live, refs, candidates, case) for case in cases], loss=live.loss,
            forward=live.forward, progress=progress,
        )  # fmt: skip
        plan, *points = (
            replace(point, measured=result.mean, measured_error=result.error)
            for point, result in zip([plan, *points], measured, strict=True)
        )
    return QuantizationPlan(
        targets.name_of(model),
        tensors,
        {each.name: each.bits for each in candidates},
        budget,
        plan,
        tuple(points),
        tuple(_frontier(damages, sizes, entries)),
        {"seed": settings.seed, "examples": len(live.examples), "draws": draws, "unit": live.unit,
         "loss": live.loss.kind, "target": targets.name_of(model)},
    )  # fmt: skip


def _refs_to_plan(model: Any, layers: Any) -> list[tuple[LayerRef, str]]:
    """Return the weights of a live model that can be quantized, with the names of their parameters."""
    parameters = dict(model.named_parameters())
    with opening.opened_source(model) as source:
        refs = [
            (ref, ref.tensor)
            for ref in select_layers(list(source.layers()), layers)
            if not ref.skipped and len(ref.shape) > 1 and ref.shape[-1] >= SMALLEST and ref.tensor in parameters
        ]
    if not refs:
        raise Unreadable("the model has no weight matrix to quantize; check --layers")
    return refs


def _values(model: Any, ref: LayerRef, parameter: str) -> Array:
    """Return the current values of a weight in float32."""
    tensor = model.get_parameter(parameter).detach()
    return np.ascontiguousarray(pick(tensor.cpu().float().numpy(), ref))


def _predict(
    live: LiveData, refs: Sequence[tuple[LayerRef, str]], candidates: Sequence[WeightFormat], draws: int,
    settings: Settings, store: Any, progress: Progress | None,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Return damages and standard errors (tensors, formats); infinite where a format does not fit."""
    damages = np.full((len(refs), len(candidates)), np.inf)
    errors = np.zeros_like(damages)
    kept = _open_store(store, live, draws, settings)
    changes, places = [], []
    for i, (ref, parameter) in enumerate(refs):
        fitting = [j for j, each in enumerate(candidates) if each.fits(ref.shape)]
        stored: Mapping[str, Any] = (kept.get(ref.name) if kept else None) or {}
        for j in fitting:
            if candidates[j].name in stored:
                damages[i, j], errors[i, j] = stored[candidates[j].name]
        missing = [j for j in fitting if candidates[j].name not in stored]
        if missing:
            changes.append(_rounding(live, ref, parameter, [candidates[j] for j in missing]))
            places.append((i, missing))
    found: dict[str, Any] = {}
    groups = _portions(changes, usable_memory() // 2) if changes else []
    for number, group in enumerate(groups):

        def report(done: int, total: int, number: int = number) -> None:
            if progress:
                progress(number * total + done, len(groups) * total)

        part = predict_damage(
            live.model, live.examples, group, loss=live.loss, draws=draws, seed=settings.seed, forward=live.forward,
            progress=report,
        )  # fmt: skip
        found |= part
        for (i, missing), change in zip(places, changes, strict=True):
            if change.name in part:
                damages[i, missing], errors[i, missing] = part[change.name].mean, part[change.name].error
                if kept:
                    values = {c.name: [float(damages[i, j]), float(errors[i, j])] for j, c in enumerate(candidates)
                              if np.isfinite(damages[i, j])}  # fmt: skip
                    kept.put(change.name, {**(kept.get(change.name) or {}), **values})
    return damages, np.nan_to_num(errors)


def _portions(changes: Sequence[Change], memory: int) -> list[list[Change]]:
    """Split the changes so that those of a portion fit into memory."""
    portions: list[list[Change]] = [[]]
    total = 0
    for change in changes:
        if portions[-1] and total + change.memory > memory:
            portions.append([])
            total = 0
        portions[-1].append(change)
        total += change.memory
    return portions


def _rounding(live: LiveData, ref: LayerRef, parameter: str, candidates: Sequence[WeightFormat]) -> Change:
    def read() -> list[Array]:
        weight = _values(live.model, ref, parameter)
        return [each.round(weight) - weight for each in candidates]

    return Change(ref.name, parameter, ref, read, len(candidates))


def _changes(
    live: LiveData, refs: Sequence[tuple[LayerRef, str]], candidates: Sequence[WeightFormat], choice: Array
) -> list[Change]:  # fmt: skip
    return [_rounding(live, ref, parameter, [candidates[choice[i]]]) for i, (ref, parameter) in enumerate(refs)]


def _open_store(store: Any, live: LiveData, draws: int, settings: Settings) -> ResultStore | None:
    if store is None:
        return None
    tensors = [value for example in live.examples for value in _tensors(example.inputs)]
    parameters = [parameter.detach() for parameter in live.model.parameters()]
    identity = fingerprints.digest([repr((live.loss.kind, draws, settings.seed))], (*tensors, *parameters), ()).hex()
    return ResultStore(
        store, identity, contents="damages",
        mismatch="damages of another model, other examples, draws or another seed",
    )  # fmt: skip


def _tensors(inputs: Any) -> list[Any]:
    return [inputs[name] for name in sorted(inputs)] if isinstance(inputs, Mapping) else [inputs]


def _check_budget(budget: float, damages: Floats, sizes: Floats, entries: Floats) -> None:
    possible = np.where(np.isfinite(damages), sizes, np.nan)
    if np.isnan(possible).all(1).any():
        raise UsageError("a tensor fits none of the formats; add f16 or one with smaller groups to --formats")
    low, high = (float(f(possible, 1).sum() / entries.sum()) for f in (np.nanmin, np.nanmax))
    if not low <= budget * (1 + 1e-9):
        raise UsageError(
            f"a budget of {budget:.3g} bits per weight is below the smallest that these formats allow, {low:.3g} "
            f"({low * entries.sum() / 8e9:.3g} GB); give at least that, or pass smaller --formats"
        )
    if budget > high * (1 + 1e-9):
        raise UsageError(
            f"a budget of {budget:.3g} bits per weight is above the largest size of these formats, {high:.3g} "
            f"({high * entries.sum() / 8e9:.3g} GB); give at most that: every tensor gets its best format there"
        )


def _uniform_choice(each: WeightFormat, candidates: Sequence[WeightFormat], damages: Floats, sizes: Floats) -> Array:
    """Return the choice of one format for all tensors; where it does not fit, the next larger one that does."""
    own = candidates.index(each)
    bits = np.array([candidate.bits for candidate in candidates])
    choice = np.full(len(damages), own)
    for i in np.flatnonzero(~np.isfinite(damages[:, own])):
        larger = [j for j in np.argsort(bits) if np.isfinite(damages[i, j]) and bits[j] >= bits[own]]
        choice[i] = larger[0] if larger else int(np.where(np.isfinite(damages[i]), bits, -1).argmax())
    return choice


def _point(name: str, choice: Array, damages: Floats, sizes: Floats, entries: Floats) -> PlanPoint:
    rows = np.arange(len(choice))
    return PlanPoint(name, float(sizes[rows, choice].sum() / entries.sum()), float(damages[rows, choice].sum()))


def _frontier(damages: Floats, sizes: Floats, entries: Floats) -> Iterable[PlanPoint]:
    """Yield the best plans for budgets between the smallest and the largest size."""
    possible = np.where(np.isfinite(damages), sizes, np.nan)
    low, high = np.nanmin(possible, 1).sum(), np.nanmax(possible, 1).sum()
    for budget in np.linspace(low, high, FRONTIER_POINTS):
        yield _point("best", assign(damages, sizes, float(budget)), damages, sizes, entries)


def _planned(
    ref: LayerRef, candidates: Sequence[WeightFormat], damages: Floats, errors: Floats, chosen: WeightFormat
) -> PlannedTensor:  # fmt: skip
    fitting = [j for j in range(len(candidates)) if np.isfinite(damages[j])]
    return PlannedTensor(
        ref.name,
        role_of(ref.name, ref.kind, ref.shape, ref.axes, ref.groups),
        block_of(ref.name),
        ref.shape,
        {candidates[j].name: float(damages[j]) for j in fitting},
        {candidates[j].name: float(errors[j]) for j in fitting},
        chosen.name,
    )
