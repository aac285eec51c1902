"""Compute per-layer learning rates, weight decays and sparsities from α, as mappings by layer name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from statistics import fmean

from layerscope.errors import UnknownName, UsageError
from layerscope.records.report import Report

SCALING_FORMS = ("linear", "sqrt", "log2", "rank")


def temp_balance(
    report: Report,
    lr: float,
    *,
    metric: str = "alpha_hill",
    low: float = 0.5,
    high: float = 1.5,
    form: str = "linear",
    ends: bool = False,
) -> dict[str, float]:
    """Return a learning rate for each layer: layers with lower α get smaller rates (TempBalance, NeurIPS 2023).

    :param report: report with the metric.
    :param lr: base learning rate; layers without the metric keep it.
    :param metric: metric to balance by.
    :param low: factor on ``lr`` for the layer with the lowest α; for the forms "linear" and "rank".
    :param high: factor on ``lr`` for the layer with the highest α; for the forms "linear" and "rank".
    :param form: "linear": lr·[low + (high − low)(α − min)/(max − min)]; "sqrt" and "log2": lr·n·f(α)/Σf(α); "rank":
        factors evenly spaced from low to high in the order of α.
    :param ends: balance the first and the last layer too; by default they keep ``lr``.
    :return: layer name → learning rate, for all analyzed layers.
    :raises UsageError: fewer than two layers of the report have the metric.
    """
    if form not in SCALING_FORMS:
        raise UnknownName("form", form, SCALING_FORMS)
    _require_positive(lr=lr, low=low, high=high)
    rates = {row.name: lr for row in report.rows if not row.skipped}
    names = [row.name for row in report.rows if not row.skipped]
    excluded = set() if ends else {names[0], names[-1]} if names else set()
    values = _metric_values(report, metric, excluded)
    return rates | {name: lr * share for name, share in _scale_factors(values, low, high, form).items()}


def alpha_decay(
    report: Report, weight_decay: float, *, metric: str = "alpha_hill", low: float = 0.5, high: float = 1.5
) -> dict[str, float]:
    """Return a weight decay for each layer: layers with lower α get less decay (AlphaDecay, arXiv 2506.14562).

    The decay is weight_decay·[low + (high − low)(α − min)/(max − min)]; layers without the metric keep weight_decay.

    :param report: report with the metric.
    :param weight_decay: base weight decay.
    :param metric: metric to balance by.
    :param low: factor on ``weight_decay`` for the layer with the lowest α.
    :param high: factor on ``weight_decay`` for the layer with the highest α.
    :return: layer name → weight decay, for all analyzed layers.
    :raises UsageError: fewer than two layers of the report have the metric.
    """
    _require_positive(weight_decay=weight_decay, low=low, high=high)
    decays = {row.name: weight_decay for row in report.rows if not row.skipped}
    shares = _scale_factors(_metric_values(report, metric, set()), low, high, "linear")
    return decays | {name: weight_decay * share for name, share in shares.items()}


def alpha_pruning(
    report: Report, sparsity: float, *, metric: str = "alpha", eps: float = 0.3, by_block: bool = True
) -> dict[str, float]:
    """Return a sparsity for each layer: layers with lower α are pruned less (AlphaPruning, NeurIPS 2024).

    With q the α of a layer, r = (1 − eps) + 2·eps·(q − min)/(max − min). The sparsity is r·S·Σd/Σ(d·r), where d is the
    number of weights of a layer; over all layers returned, the share of pruned weights is S. Layers that would exceed
    1 are pruned completely, and the others make up for the difference.

    :param report: report with the metric.
    :param sparsity: share S of all weights to prune, between 0 and 1.
    :param metric: metric to decide by.
    :param eps: strength of the variation between layers, at least 0 and below 1; 0 prunes all layers equally.
    :param by_block: use the mean α of a layer's block as q.
    :return: layer name → share of its weights to prune; embeddings and layers without the metric are left out.
    :raises UsageError: sparsity is not between 0 and 1, or fewer than two layers have the metric.
    """
    if not (isinstance(sparsity, int | float) and 0 < sparsity < 1):
        raise UsageError(f"sparsity={sparsity!r}: give a number above 0 and below 1, e.g. 0.5")
    if not 0 <= eps < 1:
        raise UsageError(f"eps={eps!r}: give a number of at least 0 and below 1, e.g. 0.3")
    embeddings = {row.name for row in report.rows if row.ref.kind == "embedding"}
    values = _metric_values(report, metric, embeddings)
    if by_block:
        blocks: dict[str, list[float]] = {}
        for name, value in values.items():
            blocks.setdefault(block_of(name), []).append(value)
        values = {name: fmean(blocks[block_of(name)]) for name in values}
    ratios = _scale_factors(values, 1 - eps, 1 + eps, "linear")
    weights = {row.name: row.ref.params for row in report.rows if row.name in values}
    return _cap_sparsities(ratios, weights, sparsity)


def block_of(name: str) -> str:
    """Return a layer's block: its name up to the first number, such as ``encoder.layer.3`` in a transformer."""
    match = re.match(r"(.*?\.\d+)(\.|$)", name)
    return match[1] if match else name


def _metric_values(report: Report, metric: str, excluded: set[str]) -> dict[str, float]:
    values = {
        row.name: float(row.metrics[metric])
        for row in report.rows
        if metric in row.metrics and row.name not in excluded and not isinstance(row.metrics[metric], str)
    }
    if len(values) < 2:
        known = sorted({name for row in report.rows for name in row.metrics})
        if metric not in known:
            raise UnknownName("metric of this report", metric, known)
        raise UsageError(f"metric={metric!r}: {len(values)} layers of the report have it; at least 2 are needed")
    return values


def _scale_factors(values: Mapping[str, float], low: float, high: float, form: str) -> dict[str, float]:
    """Return the factor on the base value for each layer."""
    lowest, highest = min(values.values()), max(values.values())
    if form == "rank":
        order = sorted(values, key=lambda name: values[name])
        return {name: low + (high - low) * i / (len(order) - 1) for i, name in enumerate(order)}
    if form in ("sqrt", "log2"):
        if lowest <= (1 if form == "log2" else 0):
            raise UsageError(
                f"form={form!r} needs values above {1 if form == 'log2' else 0}, but the smallest is {lowest:.3g}; "
                "use form='linear'"
            )
        shape = math.sqrt if form == "sqrt" else math.log2
        raw = {name: shape(value) for name, value in values.items()}
        total = sum(raw.values())
        return {name: len(raw) * value / total for name, value in raw.items()}
    if highest == lowest:
        return dict.fromkeys(values, (low + high) / 2)
    return {name: low + (high - low) * (value - lowest) / (highest - lowest) for name, value in values.items()}


def _cap_sparsities(ratios: Mapping[str, float], weights: Mapping[str, int], sparsity: float) -> dict[str, float]:
    """Return sparsities in the given ratios, capped at 1, that prune a share ``sparsity`` of all weights."""
    fully_pruned: set[str] = set()
    while True:
        free = [name for name in ratios if name not in fully_pruned]
        remaining_count = sparsity * sum(weights.values()) - sum(weights[name] for name in fully_pruned)
        scale = remaining_count / sum(weights[name] * ratios[name] for name in free)
        above_one = {name for name in free if scale * ratios[name] > 1}
        if not above_one:
            return {name: 1.0 if name in fully_pruned else scale * ratios[name] for name in ratios}
        fully_pruned |= above_one


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not (isinstance(value, int | float) and 0 < value < math.inf):
            raise UsageError(f"{name}={value!r}: give a finite number above 0")
