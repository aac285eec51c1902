"""Which models are on the same mountain: barriers between every two, raw, with their statistics mended, and aligned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import LayerscopeError, UsageError
from layerscope.landscape.align import align
from layerscope.landscape.paths import Line, Progress, line, walking
from layerscope.landscape.points import named, pairs
from layerscope.landscape.weights import check_alike, weights_of
from layerscope.rules import Pair, Pairs, judge_pairs
from layerscope.types import Finding

if TYPE_CHECKING:
    from layerscope.landscape.evaluate import TorchEvaluator, Value
    from layerscope.types import Floats

ERRORS = 2.0  # standard errors of the evaluation that a barrier may have
LEAST = 0.02  # of the error: two points of accuracy, as in linear mode connectivity (Frankle et al., ICML 2020)


@dataclass(frozen=True, eq=False)
class Basins:
    """Barriers of the loss between every two models in several ways, and what follows for averaging them."""

    names: tuple[str, ...]
    barriers: Mapping[str, Floats]  # way ("interpolate", "recompute", "aligned") → (M, M), NaN where there is none
    errors: Mapping[str, Floats]  # standard errors of them
    clusters: tuple[tuple[str, ...], ...]  # by the best way that needs no alignment
    aligned: tuple[tuple[str, ...], ...]  # with alignment; the same where it was not tried
    tolerance: float  # of the loss: what a barrier may have
    lines: Mapping[tuple[str, str], Line]  # by the way that clusters
    ends: Mapping[str, Mapping[str, float]]  # model → metrics
    mean: Mapping[str, float]  # of the mean of all models, statistics recomputed
    findings: tuple[Finding, ...]
    about: Mapping[str, Any]

    def plot(self, way: str = "", ax: Any = None) -> Any:
        """The barriers as a matplotlib figure, mountain by mountain."""
        from layerscope.views.plots import _landscape, drawn

        return drawn([_landscape.barriers(self, way)], ax)

    def html(self, path: Any) -> None:
        """Write it as one HTML page that needs nothing else."""
        from layerscope.views.page import write

        write(self, path)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        matrices = {way: [[_plain(x) for x in row] for row in rows] for way, rows in self.barriers.items()}
        return {
            "names": list(self.names), "barriers": matrices, "tolerance": self.tolerance,
            "clusters": [list(each) for each in self.clusters], "aligned": [list(each) for each in self.aligned],
            "ends": {name: dict(metrics) for name, metrics in self.ends.items()}, "mean": dict(self.mean),
            "findings": [[f.code, f.title, f.layer, f.message] for f in self.findings], "about": dict(self.about),
        }  # fmt: skip

    def __repr__(self) -> str:
        from layerscope.views.landscape import basins

        return basins(self)


def basins(
    models: Any, evaluate: TorchEvaluator, *, points: int = 11, aligning: bool = True, tolerance: float | None = None,
    progress: Progress | None = None,
) -> Basins:  # fmt: skip
    """Which of these models are in one basin of the loss, so that they can be averaged?

    :param models: two or more, live or files; a mapping gives them names.
    :param evaluate: :func:`layerscope.evaluator`; its loss should be the one that they were trained on.
    :param points: of each line between two of them.
    :param aligning: try permuted copies too, where raw lines have a barrier.
    :param tolerance: barrier of the loss that still is none; by default the larger of two standard errors of the
        evaluation and 2 % of the ends' mean loss.
    :raises UsageError: fewer than two models, or of different kinds.
    """
    given = {name: weights_of(model) for name, model in named(models).items()}
    names = tuple(given)
    check_alike(list(given.values()), names)
    ends = {name: _metrics(evaluate(weights)) for name, weights in given.items()}
    ways = ["recompute", "interpolate"] if evaluate.about["bn"] == "recompute" else [str(evaluate.about["bn"])]
    count = len(names) * (len(names) - 1) // 2 * len(ways)
    done, lines, barriers, errors = 0, {}, {}, {}
    for way in ways:
        barriers[way], errors[way] = _empty(len(names)), _empty(len(names))
        with evaluate.policy(way):
            for i, j in pairs(len(names)):
                found = line(given[names[i]], given[names[j]], evaluate, points=points, names=(names[i], names[j]))
                _put(barriers[way], errors[way], i, j, found)
                lines[way, names[i], names[j]] = found
                done += 1
                if progress is not None:
                    progress(done, count, math.nan)
    first = ways[0]
    allowed = tolerance if tolerance is not None else _tolerance(lines, ends)
    clusters = _clusters(names, barriers[first], allowed)
    grouped = clusters
    notes: list[str] = []
    if aligning and len(clusters) > 1:
        barriers["aligned"], errors["aligned"] = barriers[first].copy(), errors[first].copy()
        for i, j in pairs(len(names)):
            if not barriers[first][i, j] <= allowed:
                notes += _aligned(evaluate, given, names, i, j, points, barriers["aligned"], errors["aligned"])
        grouped = _clusters(names, barriers["aligned"], allowed)
    mean = _metrics(_mean(evaluate, list(given.values())))
    chosen = {(a, b): found for (way, a, b), found in lines.items() if way == first}
    findings = judge_pairs(_pairs(names, barriers, errors[first], chosen, first, allowed, ends, mean))
    about = {**evaluate.about, **({"not aligned": notes[0]} if notes else {})}
    return Basins(names, barriers, errors, clusters, grouped, allowed, chosen, ends, mean, findings, about)


def _aligned(
    evaluate: TorchEvaluator, given: Mapping[str, Any], names: Sequence[str], i: int, j: int, points: int,
    barriers: Floats, errors: Floats,
) -> list[str]:  # fmt: skip
    """The barrier after B's units were put into A's order; why there is none."""
    one, other = given[names[i]], given[names[j]]
    try:
        moved = align(evaluate.model, one, other, evaluate.x[:256])
    except LayerscopeError as error:
        return [str(error)]
    found = line(one, moved.weights, evaluate, points=points, names=(names[i], names[j]))
    if found.barrier().value < barriers[i, j] or not math.isfinite(barriers[i, j]):
        _put(barriers, errors, i, j, found)
    return []


def _mean(evaluate: TorchEvaluator, models: Sequence[Any]) -> Value:
    with walking(models, evaluate) as at:
        return at([1 / len(models)] * len(models))


def _put(barriers: Floats, errors: Floats, i: int, j: int, found: Line) -> None:
    hill = found.barrier("chord")
    holes = sum(found.holes.values())
    barriers[i, j] = barriers[j, i] = math.inf if holes else hill.value
    errors[i, j] = errors[j, i] = math.nan if hill.error is None else hill.error


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
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(names) < 2:
        return (tuple(names),)
    finite = np.where(np.isfinite(barriers), np.maximum(barriers, 0.0), 1e6 * (allowed or 1.0))
    labels = fcluster(linkage(squareform(finite, checks=False), "complete"), allowed, "distance")
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
    return Pairs(tuple(every), first, allowed, mean.get("loss", math.inf), best)


def _high(value: float) -> float:
    """A barrier that could not be measured stands above all others."""
    return float(value) if math.isfinite(value) else math.inf


def _metrics(value: Value) -> dict[str, float]:
    if not math.isfinite(value.metrics.get("loss", math.nan)):
        raise UsageError("a model's own loss is not finite: there is no basin to look for")
    return dict(value.metrics)


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
