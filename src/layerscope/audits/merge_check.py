"""Whether fine-tuned models of one base can be merged: the audit behind ``layerscope merge-check``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import LayerscopeError, Unreadable, UsageError
from layerscope.lenses.landscape.evaluation.points import walking
from layerscope.numerics.matrices import unfold
from layerscope.numerics.rounding_noise import rounding_noise
from layerscope.numerics.weight_change import NOISE_FACTOR, TOP, largest_subspaces
from layerscope.records.comparison import Matrix
from layerscope.records.layers import LayerRef
from layerscope.records.merge_check import MergeCheck, TaskVectors
from layerscope.rules.judging import judge_merge
from layerscope.settings import Settings
from layerscope.sources import opening, targets
from layerscope.sources.composed.pairs import Pairs, PairSource
from layerscope.sources.model_weights import weights_of
from layerscope.sources.tokenizers import describe_tokenizer_difference
from layerscope.tensor_names import Selector
from layerscope.tensor_names import select as select_layers
from layerscope.tensor_roles import block_of
from layerscope.text import distinct_paths

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

Progress = Callable[[int, int], Any]  # (tensors done, tensors in total)
MIN_MODELS = 2


class Sums:
    """Sums over entries of several tensors, from which the numbers of a group of tensors follow."""

    def __init__(self, models: int) -> None:
        self.gram = np.zeros((models, models))  # ⟨Δᵢ, Δⱼ⟩
        self.base = 0.0  # ‖W₀‖²
        self.shared = 0  # entries that at least two models changed
        self.conflicting = 0  # of these, entries with both signs

    def add(self, other: Sums) -> None:
        """Add the sums of another group."""
        self.gram += other.gram
        self.base += other.base
        self.shared += other.shared
        self.conflicting += other.conflicting

    def vectors(self, name: str, overlap: tuple[float, float] | None = None) -> TaskVectors:
        """Return the numbers of the group, for the mean of the models."""
        norms = np.sqrt(np.diag(self.gram))
        scale = math.sqrt(self.base) if self.base > 0 else 1.0
        total = float(norms.sum())
        mean = math.sqrt(max(0.0, float(self.gram.sum())))
        return TaskVectors(
            name,
            tuple(map(float, norms)),
            tuple(float(norm) / scale for norm in norms),
            _cosines(self.gram, norms),
            self.conflicting / self.shared if self.shared else None,
            mean / total if total > 0 else None,
            *(overlap or (None, None)),
        )


def merge_check(
    base: Any,
    *tuned: Any,
    layers: Iterable[Selector] | Selector | None = None,
    spectra: bool = True,
    evaluate: Any = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> MergeCheck:
    """Compare the task vectors Δᵢ = Wᵢ − W₀ of models that were fine-tuned from one base.

    Names and shapes are compared first; what does not fit is listed in ``unfit``. One tensor of each model is in memory
    at a time.

    :param base: the model that all were fine-tuned from.
    :param tuned: two or more models, in any format.
    :param layers: indices, kinds, names or globs of the tensors to compare; None compares all.
    :param spectra: also measure the overlap of the largest singular vectors of pairs of task vectors.
    :param evaluate: a :class:`~layerscope.TorchEvaluator` or another function from weights to metrics, including
        "loss": measures base, models and their mean. Without it, nothing is said about the loss.
    :param settings: limits of the verdicts.
    :param progress: called after each tensor with (tensors done, tensors in total).
    :raises TargetError: a model cannot be read, or one has no tensor in common with the base.
    :raises UsageError: fewer than two models are given.
    """
    if len(tuned) < MIN_MODELS:
        raise UsageError(f"merge_check needs at least two models besides the base; {len(tuned)} given")
    settings = settings or Settings()
    names = tuple(distinct_paths([targets.name_of(target) for target in tuned]))
    with ExitStack() as stack:
        sources = [_open_pairs(stack, target, base) for target in tuned]
        common, unfit = _common_rows(sources, names, layers)
        whole, tensors = Sums(len(tuned)), []
        blocks: dict[str, Sums] = {}
        for done, rows in enumerate(common, 1):
            sums, overlap = _measure(sources, rows, spectra)
            whole.add(sums)
            number = block_of(rows[0].name)
            label = "outside blocks" if number is None else f"block {number}"
            blocks.setdefault(label, Sums(len(tuned))).add(sums)
            if sums.gram.any():
                tensors.append(sums.vectors(rows[0].name, overlap))
            if progress:
                progress(done, len(common))
    unfit += [f"{name}: {found}" for name, target in zip(names, tuned, strict=True)
              if (found := describe_tokenizer_difference(base, target))]  # fmt: skip
    losses = _evaluate(base, tuned, names, evaluate) if evaluate is not None else {}
    result = MergeCheck(
        targets.name_of(base), names, whole.vectors("model"),
        tuple(sums.vectors(label) for label, sums in blocks.items()),
        tuple(tensors), len(common), tuple(unfit), (), losses,
        {"targets": [targets.name_of(target) for target in tuned], "seed": settings.seed},
    )  # fmt: skip
    return _with_findings(result, settings)


def _with_findings(result: MergeCheck, settings: Settings) -> MergeCheck:
    return replace(result, findings=judge_merge(result, settings))


def _open_pairs(stack: ExitStack, target: Any, base: Any) -> PairSource:
    source = stack.enter_context(opening.opened_source(Pairs(target, base)))
    assert isinstance(source, PairSource)
    if source.is_adapter:
        raise Unreadable(
            f"{targets.name_of(target)}: an adapter; merge it into its base first, and pass the merged model"
        )
    return source


def _common_rows(
    sources: Sequence[PairSource], names: Sequence[str], layers: Any
) -> tuple[list[tuple[LayerRef, ...]], list[str]]:  # fmt: skip
    """Return the rows that every model has, by the base's tensor, and what does not fit."""
    by_base: list[dict[str, LayerRef]] = []
    unfit: list[str] = []
    for source, name in zip(sources, names, strict=True):
        rows: dict[str, LayerRef] = {}
        for ref in select_layers(list(source.layers()), layers):
            if ref.skipped:
                if not (source.is_unread(ref) or ref.skipped == "not selected"):
                    unfit.append(f"{name}: {ref.name}: {ref.skipped}")
                continue
            rows[source.refs(ref)[1].name] = ref
        by_base.append(rows)
    common = [key for key in by_base[0] if all(key in rows for rows in by_base)]
    if not common:
        raise Unreadable("the models have no tensor in common that fits the base; pass fine-tuned models of one base")
    return [tuple(rows[key] for rows in by_base) for key in common], unfit


def _measure(
    sources: Sequence[PairSource], rows: Sequence[LayerRef], spectra: bool
) -> tuple[Sums, tuple[float, float] | None]:  # fmt: skip
    sums, deltas = Sums(len(sources)), []
    for source, ref in zip(sources, rows, strict=True):
        base, tuned = source.both(ref)
        deltas.append(_delta(source, ref, base, tuned))
        sums.base = float(np.square(np.asarray(base, np.float64)).sum())
    flat = [delta.ravel() for delta in deltas]
    for i, first in enumerate(flat):
        for j, second in enumerate(flat[: i + 1]):
            sums.gram[i, j] = sums.gram[j, i] = float(first @ second)
    positive = sum((delta > 0).astype(np.uint8) for delta in flat)
    negative = sum((delta < 0).astype(np.uint8) for delta in flat)
    sums.shared = int(np.count_nonzero(positive + negative >= MIN_MODELS))
    sums.conflicting = int(np.count_nonzero((positive > 0) & (negative > 0)))
    return sums, _overlap(rows[0], deltas) if spectra else None


def _delta(source: PairSource, ref: LayerRef, base: Array, tuned: Array) -> Floats:
    """Return W − W₀ in float64, or zeros if it is no larger than rounding."""
    delta = np.subtract(tuned, base, dtype=np.float64)
    if not np.isfinite(delta).all():
        raise Unreadable(f"{ref.name}: a model has NaN or infinite entries; leave the tensor out with --layers")
    tuned_ref, base_ref = source.refs(ref)
    noise = max(
        rounding_noise(tuned, tuned_ref.dtype, tuned_ref.how), rounding_noise(base, base_ref.dtype, base_ref.how)
    )
    return delta if np.linalg.norm(delta) > NOISE_FACTOR * noise else np.zeros_like(delta)


def _overlap(ref: LayerRef, deltas: Sequence[Floats]) -> tuple[float, float] | None:
    """Return the mean overlap of the largest singular vectors over pairs of task vectors, and its chance level."""
    if not {"o", "i"} <= {*ref.axes} or ref.rank or sum(bool(delta.any()) for delta in deltas) < MIN_MODELS:
        return None
    stacks = [unfold(delta, ref, "flat") for delta in deltas if delta.any()]
    if len(stacks[0]) != 1 or min(stacks[0].shape[1:]) <= TOP:
        return None
    spaces = [largest_subspaces(stack[0]) for stack in stacks]
    n, m = stacks[0].shape[1:]
    values = [
        float(np.linalg.norm(a.T @ b)) / math.sqrt(TOP)
        for (left, right), (other_left, other_right) in combinations(spaces, 2)
        for a, b in ((left, other_left), (right, other_right))
    ]
    return float(np.mean(values)), (math.sqrt(TOP / n) + math.sqrt(TOP / m)) / 2


def _cosines(gram: Floats, norms: Floats) -> Matrix:
    return tuple(
        tuple(
            float(np.clip(gram[i, j] / (norms[i] * norms[j]), -1, 1)) if norms[i] > 0 and norms[j] > 0 else None
            for j in range(len(norms))
        )
        for i in range(len(norms))
    )


def _evaluate(base: Any, tuned: Sequence[Any], names: Sequence[str], evaluate: Any) -> dict[str, dict[str, float]]:
    """Return the metrics of the base, of every model and of their mean."""
    corners = [weights_of(target) for target in (base, *tuned)]
    count = len(tuned)
    points = {"base": (1.0, *(0.0,) * count), "mean": (0.0, *(1 / count,) * count)}
    points |= {name: (0.0, *(float(i == j) for j in range(count))) for i, name in enumerate(names)}
    with walking(corners, evaluate) as value_at:
        try:
            return {name: dict(value_at(coefficients).metrics) for name, coefficients in points.items()}
        except LayerscopeError as error:
            raise UsageError(f"the evaluation failed: {error}; check the model function and its data") from error
