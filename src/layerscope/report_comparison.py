"""Compare several reports and describe the result in sentences, without reading weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median
from typing import Any

import numpy as np

from layerscope.numerics.histogram_peak import peak_of
from layerscope.numerics.similarity import jensen_shannon
from layerscope.records.comparison import ComparedLayer, Comparison, Matrix, letters
from layerscope.records.findings import Finding
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.records.report_summary import EXCLUDING_FINDINGS
from layerscope.rules.judging import judge_pair
from layerscope.rules.tail_evidence import doubt
from layerscope.settings import Limits, Settings
from layerscope.tensor_names import matching_keys, strip_wrapper_prefixes
from layerscope.text import distinct_paths, plural

HISTOGRAM_BINS = 24  # bins of the histogram of α
MAX_SIGN_TEST_P = 0.05  # sign-test p-value above which "lower in k of n" may be chance
MIN_LAYERS_FOR_READING = 5  # fewest layers with an α in both models for a conclusion
MIN_LAYERS_FOR_PEAK = 12  # fewest layers for which a histogram has a meaningful peak
MAX_DEPTH_DIFFERENCE = 0.1  # relative difference in the number of layers above which depths differ


@dataclass(frozen=True)
class MatchedLayers:
    """The analyzed layers of several models, by a key that is equal for matching layers."""

    tables: tuple[Mapping[str, LayerReport], ...]  # one per model: key → layer
    common: tuple[str, ...]  # keys that all models have, in the first model's order

    @property
    def unmatched(self) -> tuple[tuple[str, ...], ...]:
        """The names of each model's layers that another model lacks."""
        return tuple(
            tuple(layer.name for key, layer in table.items() if key not in self.common) for table in self.tables
        )


def match_layers(reports: Sequence[Report]) -> MatchedLayers:
    """Match the analyzed layers of several reports by name."""
    analyzed = [[row for row in report.rows if not row.skipped] for report in reports]
    keys = matching_keys(*([row.name for row in rows] for rows in analyzed))
    tables = tuple(
        {key_by_name[row.name]: row for row in rows} for key_by_name, rows in zip(keys, analyzed, strict=True)
    )
    common = tuple(key for key in tables[0] if all(key in table for table in tables))
    return MatchedLayers(tables, common)


def compare(
    reports: Sequence[Report], distances: Sequence[Mapping[str, Mapping[str, float]]], weights: Matrix = ()
) -> Comparison:
    """Match layers by name, compare the reports and describe the result in sentences.

    ``distances`` holds, for each report, the distances of its layers from those of the first report, by name.
    ``weights`` is the distance matrix of all models, if the weights were read.
    """
    matched = match_layers(reports)
    layers = _compared_layers(matched, reports, distances)
    excluded = _excluded_keys(matched, reports)
    counted_layers = [layer for layer in layers if layer.name not in excluded]
    readings = [read_alphas(report) for report in reports]
    spectra = _spectral_distances(matched.tables)
    return Comparison(
        names=tuple(distinct_paths([str(report.meta["target"]) for report in reports])),
        reports=tuple(reports),
        layers=layers,
        unmatched=matched.unmatched,
        histogram=histogram([[alpha for alpha, _ in reading] for reading in readings]),
        reading=tuple(_describe(layers, counted_layers, readings, reports[0].settings.limits)),
        warnings=tuple(_describe_warnings(reports, counted_layers, bool(layers))),
        regressions=_find_regressions(matched, reports),
        apart={"spectra": spectra, "weights": weights} if weights else {"spectra": spectra},
    )


def _find_regressions(matched: MatchedLayers, reports: Sequence[Report]) -> tuple[tuple[Finding, ...], ...]:
    """Return what got worse in each model since the first one."""
    settings, first = reports[0].settings, matched.tables[0]
    others = [
        tuple(finding for key in matched.common for finding in judge_pair(first[key], table[key], settings))
        for table in matched.tables[1:]
    ]
    return ((), *others)


def _compared_layers(
    matched: MatchedLayers, reports: Sequence[Report], distances: Sequence[Mapping[str, Mapping[str, float]]]
) -> tuple[ComparedLayer, ...]:
    """Return metrics, distances and row numbers of each layer that all models have."""
    row_numbers = [{row.name: number for number, row in enumerate(report.rows)} for report in reports]
    layers = []
    for key in matched.common:
        rows = [table[key] for table in matched.tables]
        layers.append(
            ComparedLayer(
                name=key,
                metrics=tuple(row.metrics for row in rows),
                distances=tuple(
                    by_name.get(strip_wrapper_prefixes(row.name), {})
                    for by_name, row in zip(distances, rows, strict=True)
                ),
                rows=tuple(numbers[row.name] for numbers, row in zip(row_numbers, rows, strict=True)),
                doubtful=tuple(_is_doubtful(row, report.settings) for row, report in zip(rows, reports, strict=True)),
            )
        )
    return tuple(layers)


def _excluded_keys(matched: MatchedLayers, reports: Sequence[Report]) -> set[str]:
    """Return the keys of matched layers with an α that is not used in at least one of the models."""
    keys: set[str] = set()
    for table, report in zip(matched.tables, reports, strict=True):
        excluded = _excluded_layers(report)
        keys |= {key for key in matched.common if table[key].name in excluded}
    return keys


def _describe(
    layers: Sequence[ComparedLayer],
    counted_layers: Sequence[ComparedLayer],
    readings: Sequence[Sequence[tuple[float, bool]]],
    limits: Limits,
) -> Iterator[str]:
    """Yield sentences about the models: each one compared with the first, then each on its own."""
    names = letters(len(readings))
    others = range(1, len(readings))
    for i in others:
        yield from _describe_equal_weights(names, layers, i)
    for i in others:
        yield from _describe_pair(names, counted_layers, i)
    yield from _describe_too_few_layers(names, counted_layers)
    for name, reading in zip(names, readings, strict=True):
        yield from _describe_alphas(name, reading, limits)


def read_alphas(report: Report) -> list[tuple[float, bool]]:
    """Return α of each layer, and whether it is doubtful, without embeddings and collapsed layers."""
    excluded, settings = _excluded_layers(report), report.settings
    rows = [row for row in report.rows if "alpha" in row.metrics and row.ref.kind != "embedding"]
    return [(float(row.metrics["alpha"]), _is_doubtful(row, settings)) for row in rows if row.name not in excluded]


def alphas_of(report: Report) -> list[float]:
    """Return the values of α that :func:`read_alphas` returns."""
    return [alpha for alpha, _ in read_alphas(report)]


def _excluded_layers(report: Report) -> set[str | None]:
    """Return the names of layers with an α that is not used, such as collapsed layers."""
    return {finding.layer for finding in report.findings if finding.code in EXCLUDING_FINDINGS}


def _is_doubtful(row: LayerReport, settings: Settings) -> bool:
    """Return whether the layer has an α that does not support a verdict."""
    return "alpha" in row.metrics and "power_law" in row.parts["weight"].fits and bool(doubt(row, settings))


def histogram(alphas: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Count the values of α in common bins, from the smallest to the largest α of all models."""
    all_alphas = [a for values in alphas for a in values]
    if not all_alphas:
        return {"edges": [], "counts": [[] for _ in alphas]}
    low, high = math.floor(2 * min(all_alphas)) / 2, math.ceil(2 * max(all_alphas)) / 2
    edges = np.linspace(low, max(high, low + 1), HISTOGRAM_BINS + 1)
    counts = [np.histogram(values, bins=edges)[0].tolist() for values in alphas]
    return {"edges": edges.tolist(), "counts": counts}


def _spectral_distances(tables: Sequence[Mapping[str, LayerReport]]) -> Matrix:
    """Return the mean distance (√JSD) of the spectra of matching layers with equal numbers of eigenvalues."""
    rows: list[list[float | None]] = [[0.0] * len(tables) for _ in tables]
    for i, j in combinations(range(len(tables)), 2):
        pairs = [(tables[i][name].spectrum, tables[j][name].spectrum) for name in tables[i] if name in tables[j]]
        values = [jensen_shannon(a.evals, b.evals) for a, b in pairs if a and b and len(a.evals) == len(b.evals)]
        rows[i][j] = rows[j][i] = fmean(values) if values else None
    return tuple(map(tuple, rows))


def sign_test(lower: int, higher: int) -> float:
    """Return the two-sided p-value of an uneven split if both sides are equally likely (exact binomial test)."""
    n, k = lower + higher, min(lower, higher)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return min(1.0, float(2 * tail))


def _describe_equal_weights(names: Sequence[str], layers: Sequence[ComparedLayer], index: int) -> list[str]:
    """Describe how many of the matching layers have exactly the weights of the first model."""
    measured = [layer.distances[index] for layer in layers if len(layer.distances) > index and layer.distances[index]]
    equal = sum(distances.get("frobenius") == 0.0 for distances in measured)
    if not equal:
        return []
    return [f"{equal} of {len(measured)} layers of {names[index]} have exactly the weights of {names[0]}."]


def _common_alphas(layers: Sequence[ComparedLayer], index: int) -> list[tuple[float, float]]:
    """Return α in the first and in another model, for the layers that have one in both."""
    return [
        (float(layer.metrics[0]["alpha"]), float(layer.metrics[index]["alpha"]))
        for layer in layers
        if "alpha" in layer.metrics[0] and "alpha" in layer.metrics[index]
    ]


def _describe_pair(names: Sequence[str], layers: Sequence[ComparedLayer], index: int) -> list[str]:
    """Describe the difference of α between one model and the first, layer by layer."""
    both = _common_alphas(layers, index)
    a, b = names[0], names[index]
    if len(both) < MIN_LAYERS_FOR_READING:
        return []
    lower, higher = sum(y < x for x, y in both), sum(y > x for x, y in both)
    medians = f"median {median(y for _, y in both):.2f} compared with {median(x for x, _ in both):.2f}"
    p = sign_test(lower, higher)
    if lower == higher == 0:
        return [f"Every α of {b} equals that of {a}."]
    if p > MAX_SIGN_TEST_P:
        counts = f"lower in {lower} and higher in {higher} of {len(both)} layers"
        return [f"α of {b} is {counts} ({medians}): no clear difference from {a} (p = {p:.2f})."]
    side, count = ("lower", lower) if lower > higher else ("higher", higher)
    tails = "heavier" if lower > higher else "lighter"
    chance = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    return [
        f"α of {b} is {side} than that of {a} in {count} of {len(both)} layers ({medians}, {chance}): {tails} tails."
    ]


def _describe_too_few_layers(names: Sequence[str], layers: Sequence[ComparedLayer]) -> list[str]:
    """Describe which models share too few layers with the first for a conclusion."""
    all_counts = {name: len(_common_alphas(layers, i)) for i, name in enumerate(names[1:], 1)}
    counts = {name: count for name, count in all_counts.items() if count < MIN_LAYERS_FOR_READING}
    if not counts:
        return []
    if len(counts) == 1:
        return [
            f"Only {plural(min(counts.values()), 'layer')} with an α in both {names[0]} and {next(iter(counts))}: too "
            f"few for a conclusion (at least {MIN_LAYERS_FOR_READING})."
        ]
    return [
        f"Too few layers with an α in both {names[0]} and another model for a conclusion "
        f"(at least {MIN_LAYERS_FOR_READING}): {', '.join(counts) if len(counts) < 8 else f'{len(counts)} models'}."
    ]


def _describe_alphas(name: str, readings: Sequence[tuple[float, bool]], limits: Limits) -> list[str]:
    """Describe the values of α of one model."""
    alphas = [alpha for alpha, _ in readings]
    if len(alphas) < MIN_LAYERS_FOR_READING:
        return []
    high = [doubtful for alpha, doubtful in readings if alpha > limits.under_trained]
    low = [doubtful for alpha, doubtful in readings if alpha < limits.over_trained]
    over, under = len(high), len(low)
    text = f"{name} has α above {limits.under_trained:g} in {over} of {len(alphas)} layers{_describe_doubtful(high)}"
    text += f" and below {limits.over_trained:g} in {under}{_describe_doubtful(low)}"
    peak = peak_of([a for a in alphas if a <= limits.spurious] or alphas)
    has_peak = len(alphas) >= MIN_LAYERS_FOR_PEAK
    if has_peak:
        text += f"; the histogram of α peaks at {peak:.1f}"
    if has_peak and over >= max(2, limits.weak_layers * len(alphas)) and peak > limits.weak_peak:
        return [f"{text}. This is the pattern of a model trained on too little or poor data."]
    if under > len(alphas) / 2:
        return [f"{text}. Most tails are very heavy, the pattern of overfitting or of outlier weights."]
    return [f"{text}."]


def _describe_doubtful(doubtful: Sequence[bool]) -> str:
    return f" ({sum(doubtful)} of them doubtful)" if any(doubtful) else ""


def _describe_warnings(reports: Sequence[Report], layers: Sequence[ComparedLayer], has_matches: bool) -> list[str]:
    """Return reasons to be careful with the comparison."""
    names = letters(len(reports))
    warnings = []
    counts = [sum(not row.skipped or row.failed for row in report.rows) for report in reports]
    if max(counts) - min(counts) > MAX_DEPTH_DIFFERENCE * max(counts):
        warnings.append(
            f"The models differ in depth ({', '.join(map(str, counts))} layers). Do not rank models of different depth "
            "by norms or by α-hat (Simpson's paradox, arXiv 2106.00734)."
        )
    for i, name in enumerate(names[1:], 1):
        shape, scale = (_median_shift(layers, i, metric) for metric in ("alpha", "log_spectral_norm"))
        if shape is not None and scale is not None and shape * scale < 0:
            warnings.append(
                f"Shape and scale disagree on {name}: α is {_direction_word(shape)} than that of {names[0]}, but log "
                f"λmax is {_direction_word(scale)} (median differences {shape:+.2f} and {scale:+.2f}). "
                "Do not rank the models by one of them alone."
            )
    if not has_matches:
        warnings.append("No layer was matched by name in all models, so only the distributions of α are compared.")
    distinct_settings = {tuple(sorted(report.settings.to_dict().items(), key=str)).__repr__() for report in reports}
    if len(distinct_settings) > 1:
        warnings.append(
            "The reports were measured with different settings. Analyze the models again with the same settings."
        )
    return warnings


def _median_shift(layers: Sequence[ComparedLayer], index: int, metric: str) -> float | None:
    """Return the median difference of a metric from the first model, or None if it may be chance."""
    pairs = [layer.metrics for layer in layers if "alpha" in layer.metrics[0] and "alpha" in layer.metrics[index]]
    values = [float(m[index][metric]) - float(m[0][metric]) for m in pairs if metric in m[0] and metric in m[index]]
    p = sign_test(sum(v < 0 for v in values), sum(v > 0 for v in values))
    return median(values) if len(values) >= MIN_LAYERS_FOR_READING and p <= MAX_SIGN_TEST_P else None


def _direction_word(shift: float) -> str:
    return "lower" if shift < 0 else "higher"
