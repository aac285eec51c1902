"""Cluster models by the loss barriers between them: as they are, after aligning hidden units, and with REPAIR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from layerscope.errors import LayerscopeError, UsageError
from layerscope.lenses.landscape.alignment.permutation_groups import MODEL_OUTPUT
from layerscope.lenses.landscape.alignment.weight_matching import align
from layerscope.lenses.landscape.evaluation.points import Progress, about_of, evaluate_or_explain, walking
from layerscope.lenses.landscape.geometry import function_distance
from layerscope.lenses.landscape.geometry.lines_and_planes import line
from layerscope.lenses.landscape.geometry.sharpness import sharpness
from layerscope.records.landscape.basins import Basins, complete_linkage
from layerscope.records.landscape.lines import Line
from layerscope.rules.judging import judge_landscape
from layerscope.rules.landscape_facts import Pair, Pairs
from layerscope.sources.model_weights import check_same_tensors, weights_of_all
from layerscope.sources.several_models import index_pairs, name_models

if TYPE_CHECKING:
    from layerscope.array_types import Floats
    from layerscope.lenses.landscape.evaluation.value import Value

TOLERANCE_ERRORS = 2.0  # standard errors of the loss up to which a barrier counts as zero
TOLERANCE_SHARE = 0.02  # share of the ends' mean loss; Frankle et al. (ICML 2020) use 2 % of accuracy
PERMUTED_LOSS_TOLERANCE = 1e-3  # relative; covers float16 rounding and a different order of summation
ALIGNMENT_INPUTS = 256  # number of the evaluator's examples that alignment uses


def basins(
    models: Any, evaluate: Any, *, points: int = 11, aligning: bool = True, tolerance: float | None = None,
    sharp: bool = False, groups: Sequence[Mapping[str, int]] | None = None, progress: Progress | None = None,
) -> Basins:  # fmt: skip
    """Find out which models share a basin of the loss (are linearly mode-connected) and can be averaged.

    :param models: two or more models, live or files; a mapping names them.
    :param evaluate: a :class:`~layerscope.TorchEvaluator` or :class:`~layerscope.KerasEvaluator`, preferably with the
        training loss; or any function from weights by name to metrics by name, including "loss".
    :param points: number of points evaluated on each line between two models.
    :param aligning: also align the hidden units of pairs with a loss barrier, and apply REPAIR if a barrier remains.
    :param tolerance: loss barriers up to this value count as zero. The default is two standard errors of the loss or
        2 % of the models' mean loss, whichever is larger.
    :param sharp: also measure the sharpness of each model, which takes about a hundred evaluations per model.
    :param groups: permutation groups for :func:`align`; without them only PyTorch models are aligned.
    :param progress: called after each line with (lines done, total lines, seconds left or NaN).
    :raises UsageError: if there are fewer than two models, or their tensors differ.
    """
    if not isinstance(points, int) or points < 3:
        raise UsageError(f"points={points!r}: points must be 3 or more, so that one lies between the two ends")
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"tolerance={tolerance!r}: the tolerance is a loss barrier and must be 0 or more")
    named = name_models(models)
    weights_by_name = dict(zip(named, weights_of_all(named.values()), strict=True))
    names, weights = tuple(weights_by_name), list(weights_by_name.values())
    check_same_tensors(weights, names)
    ends = {name: _finite_metrics(_evaluate_mean(evaluate, [w]), name) for name, w in weights_by_name.items()}
    policies = list(getattr(evaluate, "barrier_policies", ("as evaluated",)))
    measured = _Barriers(weights_by_name, evaluate, points, progress, math.comb(len(names), 2) * len(policies))
    for policy in policies:
        for i, j in index_pairs(len(names)):
            measured.measure(Stage(policy, policy), i, j, weights[j])
    first = policies[0]
    unmatched: tuple[str, ...] = ()
    max_barrier = tolerance if tolerance is not None else _default_tolerance(measured.lines, ends)
    clusters = aligned_clusters = _clusters(names, measured.barriers[first], max_barrier)
    about = about_of(evaluate)
    if aligning and len(clusters) > 1:
        last, failure, unmatched = _align_pairs(measured, first, max_barrier, groups, ends)
        aligned_clusters = _clusters(names, measured.barriers[last], max_barrier) if last else clusters
        about |= {"not aligned": failure} if failure else {}
        about |= {"not matched": "; ".join(unmatched)} if unmatched else {}
    mean = dict(_evaluate_mean(evaluate, weights).metrics)
    lines = {(a, b): measured_line for (stage, a, b), measured_line in measured.lines.items() if stage == first}
    pair_facts = _pair_facts(measured, lines, first, max_barrier, ends, mean)._replace(unmatched=unmatched)
    return Basins(
        names=names,
        barriers=measured.barriers,
        errors=measured.errors,
        clusters=clusters,
        aligned=aligned_clusters,
        tolerance=max_barrier,
        lines=lines,
        ends=ends,
        mean=mean,
        means={
            group: dict(_evaluate_mean(evaluate, [weights_by_name[name] for name in group]).metrics)
            for group in clusters
            if len(group) > 1
        },
        findings=judge_landscape(pairs=pair_facts),
        about=about,
        functions=function_distance.matrices(weights, evaluate) if _classifies(evaluate, ends) else {},
        sharpness={name: sharpness(w, evaluate) for name, w in weights_by_name.items()} if sharp else {},
    )


@dataclass(frozen=True)
class Stage:
    """One way of measuring barriers: models as they are, aligned, or aligned with REPAIR."""

    name: str
    policy: str  # batch-norm policy
    repair: bool = False
    previous: str = ""  # stage to fall back on for pairs that this one does not improve

    def applied_to(self, evaluate: Any) -> AbstractContextManager[None]:
        """Return a context in which the evaluator uses this stage's settings."""
        if not hasattr(evaluate, "policy"):
            return nullcontext()
        context = evaluate.policy(self.policy, repair=True) if self.repair else evaluate.policy(self.policy)
        return cast("AbstractContextManager[None]", context)


class _Barriers:
    """Measured lines and loss barriers between all pairs of models, for each stage."""

    def __init__(
        self, weights: Mapping[str, Any], evaluate: Any, points: int, progress: Progress | None, count: int
    ) -> None:
        self.weights, self.names, self.evaluate = list(weights.values()), list(weights), evaluate
        self.lines: dict[tuple[str, str, str], Line] = {}  # (stage, from, to)
        self.barriers: dict[str, Floats] = {}
        self.errors: dict[str, Floats] = {}
        self._points, self._progress, self._count, self._done = points, progress, count, 0

    def measure(self, stage: Stage, i: int, j: int, end: Any) -> None:
        """Evaluate the line from model i to ``end``, which is model j or a permuted copy of it."""
        ends = self.names[i], self.names[j]
        if stage.name not in self.barriers:
            self._begin(stage)
        with stage.applied_to(self.evaluate):
            measured = line(self.weights[i], end, self.evaluate, points=self._points, names=ends)
        barrier = measured.barrier("chord")
        value = math.inf if measured.holes else barrier.value
        error = math.nan if barrier.error is None else barrier.error
        self.lines[stage.name, ends[0], ends[1]] = measured
        if not stage.previous or value < self.barriers[stage.name][i, j]:
            self.barriers[stage.name][i, j] = self.barriers[stage.name][j, i] = value
            self.errors[stage.name][i, j] = self.errors[stage.name][j, i] = error
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(self._count, self._done), math.nan)

    def _begin(self, stage: Stage) -> None:
        if stage.previous:
            self.barriers[stage.name] = self.barriers[stage.previous].copy()
            self.errors[stage.name] = self.errors[stage.previous].copy()
        else:
            self.barriers[stage.name] = _empty_matrix(len(self.names))
            self.errors[stage.name] = _empty_matrix(len(self.names))


def _align_pairs(
    measured: _Barriers, first: str, max_barrier: float, groups: Sequence[Mapping[str, int]] | None,
    ends: Mapping[str, Mapping[str, float]],
) -> tuple[str, str, tuple[str, ...]]:  # fmt: skip
    """Align the pairs with a loss barrier and measure them again; apply REPAIR to those that still have one.

    Returns (name of the last measured stage, reason why alignment stopped there, why some units were not matched).
    """
    evaluate, names, weights = measured.evaluate, measured.names, measured.weights
    is_live = hasattr(evaluate, "model") and hasattr(evaluate, "forward")
    if not is_live and groups is None:
        return "", "only PyTorch models can be aligned without groups=", ()
    model, x, forward = (evaluate.model, evaluate.x[:ALIGNMENT_INPUTS], evaluate.forward) if is_live else (None,) * 3
    aligned = Stage("aligned", first, previous=first)
    repaired = Stage("repaired", first, repair=True, previous=aligned.name)
    permuted: dict[tuple[int, int], Any] = {}
    last, reasons = "", dict[str, None]()
    for i, j in index_pairs(len(names)):
        if measured.barriers[first][i, j] <= max_barrier:
            continue
        try:
            alignment = align(model, weights[i], weights[j], x, forward=forward, groups=groups)
            permuted[i, j] = alignment.weights
            reasons |= dict.fromkeys(reason for reason in alignment.fixed if reason != MODEL_OUTPUT)
            _check_loss_unchanged(evaluate, permuted[i, j], ends[names[j]]["loss"], names[j])
        except LayerscopeError as error:
            return last, str(error), tuple(reasons)
        measured.measure(aligned, i, j, permuted[i, j])
        last = aligned.name
    if first == "straight" and is_live:
        still_apart = [(i, j) for i, j in permuted if not measured.barriers[aligned.name][i, j] <= max_barrier]
        try:
            for i, j in still_apart:
                measured.measure(repaired, i, j, permuted[i, j])
                last = repaired.name
        except LayerscopeError:  # the model has no layer that REPAIR applies to
            pass
    return last, "", tuple(reasons)


def _check_loss_unchanged(evaluate: Any, permuted: Any, loss: float, name: str) -> None:
    """
    :raises UsageError: if permuting a model changes its loss.
    """
    new_loss = _evaluate_mean(evaluate, [permuted]).metrics["loss"]
    if not math.isclose(new_loss, loss, rel_tol=PERMUTED_LOSS_TOLERANCE, abs_tol=PERMUTED_LOSS_TOLERANCE):
        raise UsageError(
            f"permuting {name} changes its loss from {loss:.6g} to {new_loss:.6g}; add the missing axes to groups="
        )


def _classifies(evaluate: Any, ends: Mapping[str, Mapping[str, float]]) -> bool:
    return hasattr(evaluate, "outputs") and all("accuracy" in metrics for metrics in ends.values())


def _evaluate_mean(evaluate: Any, models: Sequence[Any]) -> Value:
    """Evaluate the average of several models' weights.

    :raises UsageError: if the evaluation fails.
    """
    with walking(models, evaluate) as at:
        value, reason = evaluate_or_explain(at, [1 / len(models)] * len(models))
    if value is None:
        raise UsageError(
            f"basins: evaluating a model, or the average of several, failed: {reason}; check the models and the data"
        )
    return value


def _empty_matrix(count: int) -> Floats:
    """Create a square matrix of NaN with zeros on the diagonal."""
    matrix = np.full((count, count), math.nan)
    np.fill_diagonal(matrix, 0.0)
    return matrix


def _default_tolerance(lines: Mapping[Any, Line], ends: Mapping[str, Mapping[str, float]]) -> float:
    """Two standard errors of one model's loss or 2 % of the mean loss of the models, whichever is larger."""
    errors = [
        row.std(ddof=1) / math.sqrt(len(row)) for line in lines.values() for row in line.samples[:1] if len(row) > 1
    ]
    loss = float(np.nanmean([metrics["loss"] for metrics in ends.values()]))
    return max(TOLERANCE_ERRORS * float(np.mean(errors)) if errors else 0.0, TOLERANCE_SHARE * abs(loss))


def _clusters(names: Sequence[str], barriers: Floats, max_barrier: float) -> tuple[tuple[str, ...], ...]:
    """Group models so that no pair in a group has a barrier (complete linkage); the largest group comes first."""
    from scipy.cluster.hierarchy import fcluster

    finite = np.where(np.isfinite(barriers), np.maximum(barriers, 0.0), 1e6 * (max_barrier or 1.0))
    labels = fcluster(complete_linkage(finite), max(max_barrier, 0.0), "distance")
    groups = [
        tuple(name for name, label in zip(names, labels, strict=True) if label == group_label)
        for group_label in dict.fromkeys(labels)
    ]
    return tuple(sorted(groups, key=lambda group: (-len(group), names.index(group[0]))))


def _pair_facts(
    measured: _Barriers, lines: Mapping[tuple[str, str], Line], first: str, max_barrier: float,
    ends: Mapping[str, Mapping[str, float]], mean: Mapping[str, float],
) -> Pairs:  # fmt: skip
    """Collect the facts that the rules judge."""
    facts = []
    for i, j in index_pairs(len(measured.names)):
        names = measured.names[i], measured.names[j]
        barriers = {stage: _finite_or_infinite(matrix[i, j]) for stage, matrix in measured.barriers.items()}
        error = float(measured.errors[first][i, j])
        facts.append(Pair(names, barriers, error if math.isfinite(error) else 0.0, sum(lines[names].holes.values())))
    best = min(metrics["loss"] for metrics in ends.values())
    return Pairs(tuple(facts), first, max_barrier, _finite_or_infinite(mean.get("loss", math.inf)), best)


def _finite_or_infinite(value: float) -> float:
    """Treat a barrier that could not be measured as infinite."""
    return float(value) if math.isfinite(value) else math.inf


def _finite_metrics(value: Value, name: str) -> dict[str, float]:
    """
    :raises UsageError: if the loss is not finite.
    """
    if not math.isfinite(value.metrics.get("loss", math.nan)):
        raise UsageError(f"{name}: its own loss is not finite, so it lies in no basin; leave this model out")
    return dict(value.metrics)
