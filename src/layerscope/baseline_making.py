"""Make a table of baselines: simulate untrained layers, and collect healthy layers from reports."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from layerscope.baseline_tables import METRICS, from_dict, shipped_text
from layerscope.errors import Absent
from layerscope.fits.power_law import power_law
from layerscope.numerics.similarity import jensen_shannon
from layerscope.numerics.spectrum import Spectrum
from layerscope.numerics.untrained_spectra import untrained_eigenvalues
from layerscope.records.report import Report
from layerscope.settings import Settings

ROWS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)  # shorter side M of the simulated layers
RATIOS = (1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0, 64.0)  # N / M
POOLED = (1, 9)  # matrices of one layer
MAX_POOLED_ROWS = 512  # of layers of several matrices
QUANTILES = (0.05, 0.5, 0.95)
DIGITS = 4  # significant digits that are stored


def baselines_of(reports: Iterable[Report], optimizer: str = "") -> dict[str, Any]:
    """Make a table of baselines whose healthy layers are those of some reports; its untrained layers are the shipped.

    :param reports: reports of models that are known to be good; reports with ``randomize=True`` add rand_distance.
    :param optimizer: optimizer family that trained them, if it is one and the same.
    :return: plain JSON types, which ``Settings.against`` reads from a file.
    """
    reports = list(reports)
    shipped = json.loads(shipped_text())
    rows = healthy_rows(reports, optimizer)
    if optimizer:
        rows += healthy_rows(reports, "")
    table = {**shipped, "healthy": rows, "sources": sorted({str(report.meta["target"]) for report in reports})}
    from_dict(table)
    return table


def healthy_rows(reports: Sequence[Report], optimizer: str) -> list[dict[str, Any]]:
    """Return one row per role: number of layers and models, and quantiles of each metric."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    models: dict[str, set[int]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for number, report in enumerate(reports):
        for layer in report.rows:
            if layer.skipped or layer.ref.derived or "alpha" not in layer.metrics:
                continue
            role = str(layer.metrics["layer_role"])
            models[role].add(number)
            counts[role] += 1
            for name in METRICS:
                if name in layer.metrics:
                    scale = float(layer.metrics["stable_rank_untrained"]) if name == "stable_rank" else 1.0
                    values[role][name].append(float(layer.metrics[name]) / scale)
    return [
        {"role": role, "optimizer": optimizer, "layers": counts[role], "models": len(models[role]),
         **{name: _quantiles(numbers) for name, numbers in values[role].items()}}
        for role in sorted(values)
    ]  # fmt: skip


def untrained_rows(seed: int = 0) -> Iterator[dict[str, Any]]:
    """Simulate untrained layers of every shape of the grid; yield one row per shape."""
    settings = Settings()
    for k in POOLED:
        for m in ROWS:
            if k > 1 and m > MAX_POOLED_ROWS:
                continue
            draws = int(np.clip(30_000 / m / k**0.5, 6, 300))
            for q in RATIOS:
                rng = np.random.default_rng([seed, k, m, int(10 * q)])
                n = round(q * m)
                spectra = [untrained_eigenvalues(rng, n, m, k) for _ in range(draws)]
                values: dict[str, list[float]] = {
                    "stable_rank": [float(s.sum() / s[-1]) / (m * k) for s in spectra],
                    "rand_distance": [jensen_shannon(a, b) for a, b in itertools.pairwise(spectra)],
                }
                try:
                    fits = [power_law(Spectrum(s, n, m, k, 0.0), settings) for s in spectra]
                    values["alpha"] = [fit.params["alpha"] for fit in fits]
                except Absent:  # too few eigenvalues for a fit
                    pass
                yield {"k": k, "m": m, "q": q, **{name: _quantiles(numbers) for name, numbers in values.items()}}


def _quantiles(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in np.quantile(values, QUANTILES)]
