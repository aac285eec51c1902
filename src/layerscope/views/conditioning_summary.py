"""What a report of the conditioning lens says in sentences, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from layerscope.records.report import Report
from layerscope.text import plural, printable

FEW = "LS209"  # too few rows
SIDES = (("lambda_max_x", "what comes in"), ("lambda_max_d", "what comes back"))


def how(report: Report) -> Mapping[str, Any]:
    """What was asked of the lens; empty where it was not used."""
    found: Mapping[str, Any] = report.meta.get("conditioning", {})
    return found


def calm(report: Report) -> str:
    """What may be said where nothing warns."""
    measured = [row for row in report.rows if "lambda_max_x" in row.metrics]
    rate = "" if "lr" in how(report) else "; steps were not held against a rate (lr=)"
    return f"No warning on how {plural(len(measured), 'layer')} of the model learns{rate}."


def shape(report: Report) -> str:
    """How level both factors are over depth, and at which loss."""
    told = []
    for metric, what in SIDES:
        values = [float(row.metrics.get(metric, 0.0)) for row in report.rows]
        positive = [value for value in values if value > 0]
        if positive:
            told.append(f"{what} {math.log10(max(positive) / min(positive)):.1f}")
    whole = how(report).get("whole", {})
    text = f"Over the layers λmax spans, in decades: {', '.join(told)}." if told else "No layer has a second moment."
    if "loss" in whole and "examples" in whole:
        text += f" Mean loss {whole['loss']:.3g} on {plural(whole['examples'], 'example')}."
    return text


def certainty(report: Report) -> list[str]:
    """Which Fisher, how many examples, whether K-FAC's product was held against the block itself."""
    asked, measured = how(report), [row for row in report.rows if "lambda_max_x" in row.metrics]
    mode = "training" if asked.get("training") else "evaluation"
    said = [f"{printable(asked.get('fisher', '?'), 20)} Fisher, loss {printable(asked.get('loss', '?'), 60)}, "
            f"convolutions {printable(asked.get('conv', '?'), 20)}, the model in {mode} mode."]  # fmt: skip
    few = sum(finding.code == FEW for finding in report.findings)
    if few:
        said.append(f"Too few rows for condition numbers in {few} of {plural(len(measured), 'layer')} ({FEW}).")
    ratios = [float(row.metrics["kfac_ratio"]) for row in measured if "kfac_ratio" in row.metrics]
    if ratios:
        near = sum(1 / 3 <= ratio <= 3 for ratio in ratios)
        said.append(f"K-FAC's λmax is within three times that of the block itself in {near} of {len(ratios)} layers.")
    else:
        said.append("λmax F is K-FAC's product; it was not held against the blocks themselves (exact=True).")
    return said


def thin(report: Report) -> bool:
    """Have most layers too few rows?"""
    measured = sum("lambda_max_x" in row.metrics for row in report.rows)
    return 2 * sum(finding.code == FEW for finding in report.findings) > measured


def coverage(report: Report) -> str:
    """How many of the weights were measured."""
    weights = [row for row in report.rows if len(row.ref.shape) > 1]
    measured = sum("lambda_max_x" in row.metrics for row in weights)
    return f"{measured} of {plural(len(weights), 'weight')} of the model measured."
