"""Per-layer learning rates, weight decays and sparsities that follow from α; each a plain mapping by layer name."""

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
    """Learning rate of each layer: the better trained (the lower its α), the smaller (TempBalance, NeurIPS 2023).

    linear: lr·[low + (high − low)(α − min)/(max − min)]; sqrt and log2: lr·n·f(α)/Σf(α); rank: evenly spaced from low
    to high in the order of α. Layers without a value, and without ``ends`` the first and the last, keep lr.

    :return: layer name → learning rate, of every analysed layer.
    :raises UsageError: the report has fewer than two layers with the metric.
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
    """Weight decay of each layer: the heavier its tail (the lower its α), the weaker (AlphaDecay, arXiv 2506.14562).

    weight_decay·[low + (high − low)(α − min)/(max − min)]; layers without a value keep weight_decay.

    :return: layer name → weight decay, of every analysed layer.
    :raises UsageError: the report has fewer than two layers with the metric.
    """
    _require_positive(weight_decay=weight_decay, low=low, high=high)
    decays = {row.name: weight_decay for row in report.rows if not row.skipped}
    shares = _scale_factors(_metric_values(report, metric, set()), low, high, "linear")
    return decays | {name: weight_decay * share for name, share in shares.items()}


def alpha_pruning(
    report: Report, sparsity: float, *, metric: str = "alpha", eps: float = 0.3, by_block: bool = True
) -> dict[str, float]:
    """Sparsity of each layer: the better trained (the lower its α), the less is pruned (AlphaPruning, NeurIPS 2024).

    r = (1 − eps) + 2·eps·(q − min)/(max − min), q the α of the layer or, ``by_block``, the mean over its block;
    sparsity = r·S·Σd/Σ(d·r), d the number of weights: over the layers mapped, the share of weights pruned is S.
    Embeddings and layers without a value are left out. Where that exceeds 1 for a layer, the others take the rest.

    :return: layer name → share of its weights to prune.
    :raises UsageError: sparsity is not between 0 and 1, or fewer than two layers have the metric.
    """
    if not (isinstance(sparsity, int | float) and 0 < sparsity < 1):
        raise UsageError(f"sparsity must lie between 0 and 1, not {sparsity!r}")
    if not 0 <= eps < 1:
        raise UsageError(f"eps must be at least 0 and below 1, not {eps!r}")
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
    """The block that a layer belongs to: its name up to the first number, ``encoder.layer.3`` of a transformer."""
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
        raise UsageError(f"{len(values)} layers have {metric}: two are needed to set one against the other")
    return values


def _scale_factors(values: Mapping[str, float], low: float, high: float, form: str) -> dict[str, float]:
    """The factor on the common value that each layer gets."""
    lowest, highest = min(values.values()), max(values.values())
    if form == "rank":
        order = sorted(values, key=lambda name: values[name])
        return {name: low + (high - low) * i / (len(order) - 1) for i, name in enumerate(order)}
    if form in ("sqrt", "log2"):
        if lowest <= (1 if form == "log2" else 0):
            raise UsageError(f"{form} needs values above {1 if form == 'log2' else 0}; the least is {lowest:.3g}")
        shape = math.sqrt if form == "sqrt" else math.log2
        raw = {name: shape(value) for name, value in values.items()}
        total = sum(raw.values())
        return {name: len(raw) * value / total for name, value in raw.items()}
    if highest == lowest:
        return dict.fromkeys(values, (low + high) / 2)
    return {name: low + (high - low) * (value - lowest) / (highest - lowest) for name, value in values.items()}


def _cap_sparsities(ratios: Mapping[str, float], weights: Mapping[str, int], sparsity: float) -> dict[str, float]:
    """Sparsities in the given ratios that prune a share ``sparsity`` of all weights, none above 1."""
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
            raise UsageError(f"{name} must be a number above 0, not {value!r}")
