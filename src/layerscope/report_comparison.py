"""Several reports beside each other, and what they say in plain language; no weights are read here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, median
from typing import Any

import numpy as np

from layerscope.numerics.histogram_peak import peak_of
from layerscope.numerics.similarity import jensen_shannon
from layerscope.records.comparison import ComparedLayer, Comparison, Matrix, letters
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.rules.tail_evidence import doubt
from layerscope.settings import Limits, Settings
from layerscope.tensor_names import matching_keys, strip_wrapper_prefixes
from layerscope.text import distinct_paths

BINS = 24  # of the α histogram
CHANCE = 0.05  # sign-test p above which "lower in k of n" may be chance
FEWEST = 5  # layers with an α in both models for a reading
PEAKED = 12  # layers from which a histogram has a peak
OUT = ("LS105",)  # findings of layers whose α is not read
DEPTH = 0.1  # relative difference in the number of layers that makes depths differ


def compare(
    reports: Sequence[Report], distances: Sequence[Mapping[str, Mapping[str, float]]], weights: Matrix = ()
) -> Comparison:
    """Match the layers by name, count, and put what is found into words.

    ``distances`` holds, for each report, the distances of its layers from those of the first, by name; ``weights`` the
    distance of each model from each, where the weights were read.
    """
    names = distinct_paths([str(report.meta["target"]) for report in reports])
    analysed = [[row for row in report.rows if not row.skipped] for report in reports]
    keys = matching_keys(*([row.name for row in rows] for rows in analysed))
    tables = [{key[row.name]: row for row in rows} for key, rows in zip(keys, analysed, strict=True)]
    numbers = [{row.name: i for i, row in enumerate(report.rows)} for report in reports]
    common = [name for name in tables[0] if all(name in table for table in tables)]
    layers = tuple(
        ComparedLayer(
            name,
            tuple(table[name].metrics for table in tables),
            tuple(
                found.get(strip_wrapper_prefixes(t[name].name), {}) for found, t in zip(distances, tables, strict=True)
            ),
            tuple(number[t[name].name] for number, t in zip(numbers, tables, strict=True)),
            tuple(_doubtful(t[name], report.settings) for t, report in zip(tables, reports, strict=True)),
        )
        for name in common
    )
    unmatched = tuple(tuple(table[name].name for name in table if name not in common) for table in tables)
    limits = reports[0].settings.limits
    readings = [read(report) for report in reports]
    alphas = [[alpha for alpha, _ in values] for values in readings]
    fallen = {name for name in common for t, r in zip(tables, reports, strict=True) if t[name].name in _collapsed(r)}
    sound = [layer for layer in layers if layer.name not in fallen]
    called = letters(len(reports))
    reading = [line for i in range(1, len(reports)) for line in _equal(called, layers, i)]
    reading += [line for i in range(1, len(reports)) for line in _pair(called, sound, i)]
    reading += _too_few(called, sound)
    reading += [line for name, values in zip(called, readings, strict=True) for line in _shape(name, values, limits)]
    warnings = _warnings(called, reports, sound, bool(layers))
    apart = {"spectra": _spectra_apart(tables), **({"weights": weights} if weights else {})}
    return Comparison(
        tuple(names), tuple(reports), layers, unmatched, histogram(alphas), tuple(reading), tuple(warnings), apart
    )


def read(report: Report) -> list[tuple[float, bool]]:
    """(α, is it doubtful?) of the layers that have one; embeddings and collapsed layers left out."""
    out, settings = _collapsed(report), report.settings
    rows = [row for row in report.rows if "alpha" in row.metrics and row.ref.kind != "embedding"]
    return [(float(row.metrics["alpha"]), _doubtful(row, settings)) for row in rows if row.name not in out]


def alphas_of(report: Report) -> list[float]:
    """α of the layers that :func:`read` reads."""
    return [alpha for alpha, _ in read(report)]


def _collapsed(report: Report) -> set[str | None]:
    return {finding.layer for finding in report.findings if finding.code in OUT}


def _doubtful(row: LayerReport, settings: Settings) -> bool:
    return "alpha" in row.metrics and "power_law" in row.parts["weight"].fits and bool(doubt(row, settings))


def histogram(alphas: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Counts of α in common bins, from the smallest to the largest of all models."""
    everything = [a for values in alphas for a in values]
    if not everything:
        return {"edges": [], "counts": [[] for _ in alphas]}
    low, high = math.floor(2 * min(everything)) / 2, math.ceil(2 * max(everything)) / 2
    edges = np.linspace(low, max(high, low + 1), BINS + 1)
    counts = [np.histogram(values, bins=edges)[0].tolist() for values in alphas]
    return {"edges": edges.tolist(), "counts": counts}


def _spectra_apart(tables: Sequence[Mapping[str, LayerReport]]) -> Matrix:
    """Mean √JSD of the spectra of the layers that two models have in common, with as many eigenvalues."""
    rows: list[list[float | None]] = [[0.0] * len(tables) for _ in tables]
    for i, j in combinations(range(len(tables)), 2):
        pairs = [(tables[i][name].spectrum, tables[j][name].spectrum) for name in tables[i] if name in tables[j]]
        found = [jensen_shannon(a.evals, b.evals) for a, b in pairs if a and b and len(a.evals) == len(b.evals)]
        rows[i][j] = rows[j][i] = fmean(found) if found else None
    return tuple(map(tuple, rows))


def sign_test(lower: int, higher: int) -> float:
    """Two-sided p that so uneven a split is chance, each side equally likely (the exact binomial test)."""
    n, k = lower + higher, min(lower, higher)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return min(1.0, float(2 * tail))


def _equal(names: Sequence[str], layers: Sequence[ComparedLayer], other: int) -> list[str]:
    """How many of the matched layers have the very weights of the first model."""
    measured = [layer.distances[other] for layer in layers if len(layer.distances) > other and layer.distances[other]]
    equal = sum(found.get("frobenius") == 0.0 for found in measured)
    if not equal:
        return []
    return [f"{equal} of {len(measured)} layers of {names[other]} have the very weights of {names[0]}."]


def _pair(names: Sequence[str], layers: Sequence[ComparedLayer], other: int) -> list[str]:
    """What matched layers say of one model beside the first."""
    both = [
        (float(layer.metrics[0]["alpha"]), float(layer.metrics[other]["alpha"]))
        for layer in layers
        if "alpha" in layer.metrics[0] and "alpha" in layer.metrics[other]
    ]
    a, b = names[0], names[other]
    if len(both) < FEWEST:
        return []
    lower, higher = sum(y < x for x, y in both), sum(y > x for x, y in both)
    medians = f"their median {median(y for _, y in both):.2f} against {median(x for x, _ in both):.2f}"
    p = sign_test(lower, higher)
    if lower == higher == 0:
        return [f"Every α of {b} is that of {a}."]
    if p > CHANCE:
        counts = f"lower in {lower} and higher in {higher} of {len(both)} layers"
        return [f"{b}'s α are {counts} ({medians}): no clear difference (p = {p:.2f})."]
    side, count = ("lower", lower) if lower > higher else ("higher", higher)
    tails = "heavier" if lower > higher else "lighter"
    chance = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    return [
        f"{b}'s α are {side} in {count} of {len(both)} layers ({medians}, {chance}): {tails} tails, layer by layer."
    ]


def _both(layers: Sequence[ComparedLayer], other: int) -> int:
    """How many layers have an α in the first model and in another one."""
    return sum("alpha" in layer.metrics[0] and "alpha" in layer.metrics[other] for layer in layers)


def _too_few(names: Sequence[str], layers: Sequence[ComparedLayer]) -> list[str]:
    """Which models share too few layers with the first for anything to be read from them."""
    few = {names[i]: _both(layers, i) for i in range(1, len(names)) if _both(layers, i) < FEWEST}
    if not few:
        return []
    if len(few) == 1:
        return [
            f"Layers with an α in both {names[0]} and {next(iter(few))}: {min(few.values())}, too few to read anything "
            "from them."
        ]
    return [
        f"Too few layers with an α in both {names[0]} and another model to read anything from them: "
        f"{', '.join(few) if len(few) < 8 else f'{len(few)} models'}."
    ]


def _shape(name: str, readings: Sequence[tuple[float, bool]], limits: Limits) -> list[str]:
    """What the α of one model say."""
    alphas = [alpha for alpha, _ in readings]
    if len(alphas) < FEWEST:
        return []
    high = [doubtful for alpha, doubtful in readings if alpha > limits.under_trained]
    low = [doubtful for alpha, doubtful in readings if alpha < limits.over_trained]
    over, under = len(high), len(low)
    text = f"{name} has {over} of {len(alphas)} layers over {limits.under_trained:g}{_of_them(high)} and {under} below "
    text += f"{limits.over_trained:g}{_of_them(low)}"
    peak = peak_of([a for a in alphas if a <= limits.spurious] or alphas)
    if len(alphas) >= PEAKED:
        text += f"; its α peak at {peak:.1f}"
    if len(alphas) >= PEAKED and over >= max(2, limits.weak_layers * len(alphas)) and peak > limits.weak_peak:
        return [f"{text}: the pattern of a model with too little or too poor data."]
    if under > len(alphas) / 2:
        return [f"{text}: most tails are very heavy, the pattern of over-training or of traps."]
    return [f"{text}."]


def _of_them(doubtful: Sequence[bool]) -> str:
    return f" ({sum(doubtful)} of them doubtful)" if any(doubtful) else ""


def _warnings(
    names: Sequence[str], reports: Sequence[Report], layers: Sequence[ComparedLayer], matched: bool
) -> list[str]:
    found = []
    counts = [sum(not row.skipped or row.failed for row in report.rows) for report in reports]
    if max(counts) - min(counts) > DEPTH * max(counts):
        found.append(
            f"The models differ in depth ({', '.join(map(str, counts))} layers): norms and α-hat of models "
            "of different depth must not be ranked against each other (Simpson's paradox, arXiv 2106.00734)."
        )
    for i, name in enumerate(names[1:], 1):
        shape, scale = (_shift(layers, i, metric) for metric in ("alpha", "log_spectral_norm"))
        if shape is not None and scale is not None and shape * scale < 0:
            found.append(
                f"Shape and scale disagree on {name}: α is {_word(shape)} than {names[0]}'s, log λmax {_word(scale)} "
                f"(medians of the differences {shape:+.2f} and {scale:+.2f}). Neither alone ranks the models."
            )
    if not matched:
        found.append("No layer of the same name is analysed in all of them: only distributions can be compared.")
    measured = {tuple(sorted(report.settings.to_dict().items(), key=str)).__repr__() for report in reports}
    if len(measured) > 1:
        found.append(
            "The reports were measured under different settings; analyse them under the same before comparing."
        )
    return found


def _shift(layers: Sequence[ComparedLayer], other: int, metric: str) -> float | None:
    pairs = [layer.metrics for layer in layers if "alpha" in layer.metrics[0] and "alpha" in layer.metrics[other]]
    values = [float(m[other][metric]) - float(m[0][metric]) for m in pairs if metric in m[0] and metric in m[other]]
    p = sign_test(sum(v < 0 for v in values), sum(v > 0 for v in values))
    return median(values) if len(values) >= FEWEST and p <= CHANCE else None


def _word(shift: float) -> str:
    return "lower" if shift < 0 else "higher"
