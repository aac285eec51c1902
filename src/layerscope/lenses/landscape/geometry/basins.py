"""Which models are on the same mountain: barriers between every two, raw, with their statistics mended, and aligned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import LayerscopeError, UsageError
from layerscope.lenses.landscape.alignment.weight_matching import align
from layerscope.lenses.landscape.evaluation.points import Progress, about_of, tried, walking
from layerscope.lenses.landscape.geometry import function_distance
from layerscope.lenses.landscape.geometry.lines_and_planes import line
from layerscope.lenses.landscape.geometry.sharpness import sharpness
from layerscope.records.landscape.basins import Basins, complete_linkage
from layerscope.records.landscape.lines import Line
from layerscope.rules.judging import judge_landscape
from layerscope.rules.landscape_facts import Pair, Pairs
from layerscope.sources.model_weights import check_alike, weights_of
from layerscope.sources.several_models import named, pairs

if TYPE_CHECKING:
    from layerscope.array_types import Floats
    from layerscope.lenses.landscape.evaluation.value import Value

ERRORS = 2.0  # standard errors of the evaluation that a barrier may have
SAME = 1e-3  # of the loss: float16, and sums in another order
LEAST = 0.02  # of the error: two points of accuracy, as in linear mode connectivity (Frankle et al., ICML 2020)


def basins(
    models: Any, evaluate: Any, *, points: int = 11, aligning: bool = True, tolerance: float | None = None,
    sharp: bool = False, groups: Sequence[Mapping[str, int]] | None = None, progress: Progress | None = None,
) -> Basins:  # fmt: skip
    """Which of these models are in one basin of the loss, so that they can be averaged?

    :param models: two or more, live or files; a mapping gives them names.
    :param evaluate: a :class:`~layerscope.TorchEvaluator` or :class:`~layerscope.KerasEvaluator`, whose loss should be
        the one that they were trained on; or any function of weights by name that gives metrics with a "loss".
    :param points: of each line between two of them.
    :param aligning: try permuted copies too where raw lines have a barrier, and these with REPAIR where one is left.
    :param tolerance: barrier of the loss that still is none; by default the larger of two standard errors of the
        evaluation and 2 % of the ends' mean loss.
    :param groups: for alignment, what :func:`align` takes: without it only PyTorch models are aligned.
    :param sharp: measure the sharpness of each model too, some hundred evaluations.
    :raises UsageError: fewer than two models, or of different kinds.
    """
    if not isinstance(points, int) or points < 3:
        raise UsageError(f"points must be 3 or more, not {points!r}: a barrier lies between the ends")
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"tolerance is a barrier of the loss, 0 or more: not {tolerance!r}")
    given = {name: weights_of(model) for name, model in named(models).items()}
    names = tuple(given)
    check_alike(list(given.values()), names)
    ends = {name: _metrics(_mean(evaluate, [weights]), name) for name, weights in given.items()}
    ways = list(getattr(evaluate, "barrier_policies", ("as evaluated",)))
    walk = _Lines(given, evaluate, points, progress, math.comb(len(names), 2) * len(ways))
    for way in ways:
        for i, j in pairs(len(names)):
            walk.measure(way, i, j, given[names[j]])
    first = ways[0]
    allowed = tolerance if tolerance is not None else _tolerance(walk.lines, ends)
    clusters = grouped = _clusters(names, walk.barriers[first], allowed)
    about = about_of(evaluate)
    if aligning and len(clusters) > 1:
        last, why = _aligned(walk, first, allowed, groups, ends)
        grouped = _clusters(names, walk.barriers[last], allowed) if last else clusters
        about |= {"not aligned": why} if why else {}
    mean = dict(_mean(evaluate, list(given.values())).metrics)
    several = [group for group in clusters if len(group) > 1]
    means = {group: dict(_mean(evaluate, [given[name] for name in group]).metrics) for group in several}
    chosen = {(a, b): found for (way, a, b), found in walk.lines.items() if way == first}
    findings = judge_landscape(
        pairs=_pairs(names, walk.barriers, walk.errors[first], chosen, first, allowed, ends, mean)
    )
    beside = function_distance.matrices(list(given.values()), evaluate) if _classifies(evaluate, ends) else {}
    peaks = {name: sharpness(weights, evaluate) for name, weights in given.items()} if sharp else {}
    return Basins(names, walk.barriers, walk.errors, clusters, grouped, allowed, chosen, ends, mean, means, findings,
                  about, beside, peaks)  # fmt: skip


class _Lines:
    """Lines between every two models, in several ways."""

    def __init__(
        self, given: Mapping[str, Any], evaluate: Any, points: int, progress: Progress | None, count: int
    ) -> None:
        self.given, self.names, self.evaluate = given, list(given), evaluate
        self.lines: dict[tuple[str, str, str], Line] = {}
        self.barriers: dict[str, Floats] = {}
        self.errors: dict[str, Floats] = {}
        self._points, self._progress, self.count, self._done = points, progress, count, 0

    def measure(self, way: str, i: int, j: int, other: Any) -> None:
        """From the i-th model to the j-th, which another may stand for."""
        both = self.names[i], self.names[j]
        if way not in self.barriers:
            self.barriers[way], self.errors[way] = _empty(len(self.names)), _empty(len(self.names))
        with self._in(way):
            found = line(self.given[both[0]], other, self.evaluate, points=self._points, names=both)
        hill = found.barrier("chord")
        value = math.inf if found.holes else hill.value
        error = math.nan if hill.error is None else hill.error
        self.lines[way, both[0], both[1]] = found
        self.barriers[way][i, j] = self.barriers[way][j, i] = value
        self.errors[way][i, j] = self.errors[way][j, i] = error
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(self.count, self._done), math.nan)

    def begin(self, way: str, of: str) -> None:
        """A way that is that of another where nothing else is measured."""
        self.barriers[way], self.errors[way] = self.barriers[of].copy(), self.errors[of].copy()

    def _in(self, way: str) -> Any:
        if not hasattr(self.evaluate, "policy"):
            return nullcontext()
        stated = {"aligned": self.evaluate.barrier_policies[0], "repaired": self.evaluate.barrier_policies[0]}.get(
            way, way
        )
        return self.evaluate.policy(stated, repair=True) if way == "repaired" else self.evaluate.policy(stated)


def _aligned(
    walk: _Lines, first: str, allowed: float, groups: Sequence[Mapping[str, int]] | None,
    ends: Mapping[str, Mapping[str, float]],
) -> tuple[str, str]:  # fmt: skip
    """(the last way that was tried, why it stopped there)."""
    live = hasattr(walk.evaluate, "model") and hasattr(walk.evaluate, "forward")
    if not live and groups is None:
        return "", "without groups= only PyTorch models are"
    model, x, forward = (walk.evaluate.model, walk.evaluate.x[:256], walk.evaluate.forward) if live else (None,) * 3
    moved: dict[tuple[int, int], Any] = {}
    last, why = "", ""
    for i, j in pairs(len(walk.names)):
        if walk.barriers[first][i, j] <= allowed:
            continue
        try:
            one, other = (walk.given[walk.names[k]] for k in (i, j))
            moved[i, j] = align(model, one, other, x, forward=forward, groups=groups).weights
            _same(walk.evaluate, moved[i, j], ends[walk.names[j]]["loss"], walk.names[j])
        except LayerscopeError as error:
            return last, str(error)
        last = _better(walk, "aligned", first, i, j, moved[i, j])
    high = [both for both in moved if not walk.barriers["aligned"][both] <= allowed]
    try:
        for i, j in high if first == "straight" and live else []:
            last = _better(walk, "repaired", "aligned", i, j, moved[i, j])
    except LayerscopeError:  # there is no layer to repair
        return last, why
    return last, why


def _same(evaluate: Any, weights: Any, loss: float, name: str) -> None:
    """
    :raises UsageError: a permuted model has another loss than it had.
    """
    found = _mean(evaluate, [weights]).metrics["loss"]
    if not math.isclose(found, loss, rel_tol=SAME, abs_tol=SAME):
        raise UsageError(f"permuted, {name} has a loss of {found:.6g}, not {loss:.6g}: the groups are not all")


def _better(walk: _Lines, way: str, than: str, i: int, j: int, weights: Any) -> str:
    """Measure another way; where it is worse, what was before stands."""
    if way not in walk.barriers:
        walk.begin(way, than)
    before, error = walk.barriers[way][i, j], walk.errors[way][i, j]
    walk.measure(way, i, j, weights)
    if not walk.barriers[way][i, j] < before:
        walk.barriers[way][i, j] = walk.barriers[way][j, i] = before
        walk.errors[way][i, j] = walk.errors[way][j, i] = error
    return way


def _classifies(evaluate: Any, ends: Mapping[str, Mapping[str, float]]) -> bool:
    return hasattr(evaluate, "outputs") and all("accuracy" in metrics for metrics in ends.values())


def _mean(evaluate: Any, models: Sequence[Any]) -> Value:
    with walking(models, evaluate) as at:
        value, reason = tried(at, [1 / len(models)] * len(models))
    if value is None:
        raise UsageError(f"a model could not be evaluated: {reason}")
    return value


def _empty(count: int) -> Floats:
    found = np.full((count, count), math.nan)
    np.fill_diagonal(found, 0.0)
    return found


def _tolerance(lines: Mapping[Any, Line], ends: Mapping[str, Mapping[str, float]]) -> float:
    """Two standard errors of the loss of one model, or 2 % of the ends' mean loss."""
    spreads = [
        row.std(ddof=1) / math.sqrt(len(row)) for found in lines.values() for row in found.samples[:1] if len(row) > 1
    ]
    loss = float(np.nanmean([metrics["loss"] for metrics in ends.values()]))
    return max(ERRORS * float(np.mean(spreads)) if spreads else 0.0, LEAST * abs(loss))


def _clusters(names: Sequence[str], barriers: Floats, allowed: float) -> tuple[tuple[str, ...], ...]:
    """Groups in which every two are without a barrier (complete linkage), largest first."""
    from scipy.cluster.hierarchy import fcluster

    finite = np.where(np.isfinite(barriers), np.maximum(barriers, 0.0), 1e6 * (allowed or 1.0))
    labels = fcluster(complete_linkage(finite), max(allowed, 0.0), "distance")
    groups = [
        tuple(n for n, label in zip(names, labels, strict=True) if label == each) for each in dict.fromkeys(labels)
    ]
    return tuple(sorted(groups, key=lambda group: (-len(group), names.index(group[0]))))


def _pairs(
    names: Sequence[str], barriers: Mapping[str, Floats], errors: Floats, lines: Mapping[tuple[str, str], Line],
    first: str, allowed: float, ends: Mapping[str, Mapping[str, float]], mean: Mapping[str, float],
) -> Pairs:  # fmt: skip
    every = []
    for i, j in pairs(len(names)):
        both = names[i], names[j]
        high = {way: _high(values[i, j]) for way, values in barriers.items()}
        error = float(errors[i, j]) if math.isfinite(errors[i, j]) else 0.0
        every.append(Pair(both, high, error, sum(lines[both].holes.values())))
    best = min(metrics["loss"] for metrics in ends.values())
    return Pairs(tuple(every), first, allowed, _high(mean.get("loss", math.inf)), best)


def _high(value: float) -> float:
    """A barrier that could not be measured stands above all others."""
    return float(value) if math.isfinite(value) else math.inf


def _metrics(value: Value, name: str) -> dict[str, float]:
    if not math.isfinite(value.metrics.get("loss", math.nan)):
        raise UsageError(f"{name}: its own loss is not finite, there is no basin to look for")
    return dict(value.metrics)
