"""Measure metrics and verdicts of the study's networks at every check, for a table that the repository keeps."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import layerscope
from layerscope.records.report import Report
from layerscope.sources.opening import opened_source
from validity.training import key

TABLE = Path(__file__).resolve().parent / "metrics.csv.gz"
MEANS = ("alpha", "alpha_weighted", "log_norm", "log_spectral_norm", "entropy", "mp_softrank", "rand_distance",
         "alpha_hill")  # fmt: skip
COLUMNS = ("family", "seed", "step", *MEANS, "alpha_excess", "relative_stable_rank", "spike_share", "distance",
           "verdicts")  # fmt: skip
DIGITS = 5


def measure_all(weights: Path, workers: int) -> Iterator[str]:
    """Measure every check of every network, and write the table."""
    stored = json.loads((weights / "outcomes.json").read_text("utf-8"))["done"]
    runs = [(json.loads(text.partition(" ")[2]), result["checks"]) for text, result in stored.items()]
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(measure_run, weights / key(recipe), recipe, checks) for recipe, checks in runs]
        rows = [row for job in tqdm(jobs, unit="net") for row in job.result()]
    rows.sort(key=lambda row: (row["family"], row["seed"], row["step"]))
    with gzip.open(TABLE, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    yield f"{len(rows)} checks of {len(runs)} nets are in {TABLE.name}"


def measure_run(folder: Path, recipe: dict[str, Any], checks: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Measure every check of one network."""
    start, rows = read_weights(folder / "0.safetensors"), []
    for check in checks:
        path = folder / f"{check['step']:.0f}.safetensors"
        report = layerscope.analyze(path, randomize=True, shuffles=2, jobs=1)
        numbers = {**means_of(report), "distance": distance(start, read_weights(path))}
        codes = " ".join(sorted({f.code for f in report.findings}))
        rows.append({"family": recipe["family"], "seed": recipe["seed"], "step": int(check["step"]),
                     **{name: format_number(value) for name, value in numbers.items()}, "verdicts": codes})  # fmt: skip
    return rows


def means_of(report: Report) -> dict[str, float]:
    """Return the mean of each metric over the layers with an α; NaN if there are none."""
    layers = [row.metrics for row in report.rows if "alpha" in row.metrics and row.ref.kind != "embedding"]
    numbers = {name: _mean([m[name] for m in layers if name in m]) for name in MEANS}
    numbers["alpha_excess"] = _mean(
        [m["alpha"] - (m["alpha_untrained_low"] + m["alpha_untrained_high"]) / 2 for m in layers]
    )
    numbers["relative_stable_rank"] = _mean([m["stable_rank"] / m["stable_rank_untrained"] for m in layers])
    numbers["spike_share"] = _mean([m["num_spikes"] / m["num_evals"] for m in layers if "num_spikes" in m])
    return numbers


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Read every weight of a file."""
    with opened_source(path) as source:
        return {ref.name: np.asarray(source.read(ref), np.float64) for ref in source.layers() if not ref.skipped}


def distance(start: dict[str, np.ndarray], end: dict[str, np.ndarray]) -> float:
    """Return ‖W − W₀‖ / ‖W₀‖ over all weights."""
    moved = sum(float(np.square(end[name] - value).sum()) for name, value in start.items())
    return math.sqrt(moved / sum(float(np.square(value).sum()) for value in start.values()))


def format_number(value: float) -> str:
    """Format a number for the table; an absent one is empty."""
    return f"{value:.{DIGITS}g}" if math.isfinite(value) else ""


def _mean(values: list[Any]) -> float:
    return float(np.mean(values)) if values else math.nan
