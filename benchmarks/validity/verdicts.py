"""How often each verdict is given: on nets of known outcome, on sound models, and on layers with a planted fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import layerscope
from layerscope.errors import LayerscopeError
from layerscope.records.report import Report
from layerscope.sources.opening import opened_source
from validity.training import key

GOOD_ACCURACY, BAD_ACCURACY = 0.9, 0.6  # of the best test accuracy in the family
GOOD_GAP, LARGE_GAP = 0.12, 0.1  # training accuracy minus test accuracy
PUBLIC = Path(__file__).resolve().parent / "public.md"
MIN_EVALS = 50  # of the layers that get a fault
MAX_LAYERS = 8  # of one model that get a fault


def judge_outcomes(weights: Path) -> Iterator[str]:
    """Yield a table: how many of the good, the bad and all trained nets have each verdict at their last check."""
    stored = json.loads((weights / "outcomes.json").read_text("utf-8"))["done"]
    nets = []
    for text, result in tqdm(stored.items(), unit="net"):
        recipe, last = json.loads(text.partition(" ")[2]), result["checks"][-1]
        report = layerscope.analyze(weights / key(recipe) / f"{last['step']:.0f}.safetensors")
        nets.append((recipe, last, {(f.code, f.severity) for f in report.findings}))
    best: dict[str, float] = {}
    for recipe, last, _ in nets:
        best[recipe["family"]] = max(best.get(recipe["family"], 0.0), last["test_accuracy"])
    share = [last["test_accuracy"] / best[recipe["family"]] for recipe, last, _ in nets]
    gap = [last["train_accuracy"] - last["test_accuracy"] for _, last, _ in nets]
    good = [s >= GOOD_ACCURACY and g < GOOD_GAP for s, g in zip(share, gap, strict=True)]
    groups = {"good": good, "bad": [s < BAD_ACCURACY for s in share],
              "gap above 10 points": [g > LARGE_GAP for g in gap], "all": [True] * len(nets)}  # fmt: skip
    yield "| verdict | " + " | ".join(f"{name} ({sum(members)})" for name, members in groups.items()) + " |"
    yield "| --- " * (1 + len(groups)) + "|"
    codes = sorted({code for _, _, found in nets for code, _ in found})
    rows: dict[str, Callable[[set[tuple[str, str]]], bool]] = {
        "any warning or error": lambda found: any(severity != "info" for _, severity in found),
        **{code: lambda found, code=code: any(c == code for c, _ in found) for code in codes},
    }
    for name, holds in rows.items():
        counts = [
            sum(holds(found) for (_, _, found), member in zip(nets, members, strict=True) if member)
            for members in groups.values()
        ]
        yield f"| {name} | " + " | ".join(map(str, counts)) + " |"


def judge_files(paths: Iterable[Path], **options: Any) -> Iterator[str]:
    """Yield the warnings of each readable file, then how many files have one and how many layers look untrained."""
    files = warned = layers = untrained = 0
    for path in paths:
        try:
            report = layerscope.analyze(path, **options)
        except LayerscopeError as error:
            yield f"left out: {error}"
            continue
        warnings = [finding for finding in report.findings if finding.severity != "info"]
        files, warned = files + 1, warned + bool(warnings)
        large = {row.name for row in report.rows if int(row.metrics.get("num_evals", 0)) >= MIN_EVALS}
        layers += len(large)
        untrained += sum(finding.code == "LS103" for finding in report.findings)
        counts = Counter(finding.code for finding in report.findings)
        yield f"{path.name}: {dict(sorted(counts.items()))}"
        yield from (f"    {finding.code} {finding.where}: {finding.message}" for finding in warnings)
    yield f"{warned} of {files} files have a warning or an error"
    yield f"{untrained} of {layers} layers with at least {MIN_EVALS} eigenvalues look untrained (LS103)"


def write_public(paths: Iterable[Path]) -> Iterator[str]:
    """Write the table of public models, public.md: what a default analysis says about each."""
    rows, warned = [], 0
    for path in tqdm(list(paths), unit="file"):
        try:
            report = layerscope.analyze(path)
        except LayerscopeError as error:
            yield f"left out: {error}"
            continue
        warnings = [finding for finding in report.findings if finding.severity != "info"]
        warned += bool(warnings)
        counts = Counter(finding.code for finding in report.findings if finding.code != "LS107")
        infos = ", ".join(f"{count} × {code}" for code, count in sorted(counts.items())) or "–"
        what = "; ".join(f"{f.code} in `{f.where}`: {f.message.partition('. ')[0]}" for f in warnings) or "–"
        layers = sum("alpha" in row.metrics for row in report.rows)
        rows.append(f"| `{'/'.join(path.parts[-3:])}` | {layers} | {infos} | {what} |")
    head = ["| file | layers with an α | verdicts | warnings and errors |", "| --- | --- | --- | --- |"]
    total = f"{warned} of {len(rows)} files have a warning or an error."
    PUBLIC.write_text("\n".join([*head, *rows, "", total]) + "\n", "utf-8")
    yield total


def plant_faults(paths: Iterable[Path]) -> Iterator[str]:
    """Yield how many planted faults were found, one fault in one layer of a sound model at a time."""
    rng = np.random.default_rng(0)
    hits, trials, others = Counter[str](), Counter[str](), Counter[str]()
    for path in paths:
        weights = read_weights(path)
        before = warnings_of(layerscope.analyze(weights))
        rows = [row for row in layerscope.analyze(weights).rows if int(row.metrics.get("num_evals", 0)) >= MIN_EVALS]
        for row in [row for row in rows if row.name in weights][:MAX_LAYERS]:
            for fault, (code, make) in FAULTS.items():
                report = layerscope.analyze({**weights, row.name: make(rng, weights[row.name])})
                trials[fault] += 1
                found = any(f.code == code and f.layer == row.name for f in report.findings)
                hits[fault] += found
                others[fault] += len(warnings_of(report) - before - {(code, row.name)})
                if not found:
                    yield f"missed: {fault} in {row.name} {row.ref.shape} of {path.name}"
    for fault, count in trials.items():
        yield f"{fault}: {hits[fault]} of {count} found as {FAULTS[fault][0]}; {others[fault]} other new warnings"


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Read every whole weight of a file as float32, by name."""
    with opened_source(path) as source:
        refs = [ref for ref in source.layers() if not ref.skipped and ref.part is None and ref.expert is None]
        return {ref.name: np.asarray(source.read(ref), np.float32) for ref in refs}


def warnings_of(report: Report) -> set[tuple[str, str | None]]:
    """Return the code and the layer of each warning and error."""
    return {(finding.code, finding.layer) for finding in report.findings if finding.severity != "info"}


def _one_large(rng: np.random.Generator, weight: np.ndarray) -> np.ndarray:
    changed = weight.copy()
    changed.flat[rng.integers(changed.size)] = 30 * weight.std()
    return changed


def _dead_rows(rng: np.random.Generator, weight: np.ndarray) -> np.ndarray:
    changed = weight.copy()
    changed[rng.choice(len(changed), max(1, round(0.1 * len(changed))), replace=False)] = 0
    return changed


FAULTS: dict[str, tuple[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]]] = {
    "re-initialized, normal": ("LS103", lambda rng, w: rng.standard_normal(w.shape) * w.std()),
    "re-initialized, uniform": ("LS103", lambda rng, w: rng.uniform(-1, 1, w.shape) * w.std()),
    "one weight at 30 deviations": ("LS115", _one_large),
    "a tenth of the rows zero": ("LS114", _dead_rows),
    "scale times 5": ("LS109", lambda _, w: 5 * w),
    "scale times 1e-6": ("LS105", lambda _, w: 1e-6 * w),
}
