"""What a report of the conditioning lens says in sentences, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from layerscope.records.report import Report
from layerscope.text import plural, printable

TOO_FEW_ROWS = "LS209"  # too few rows
FACTORS = (("lambda_max_x", "what comes in"), ("lambda_max_d", "what comes back"))


def conditioning_options(report: Report) -> Mapping[str, Any]:
    """What was asked of the lens; empty where it was not used."""
    options: Mapping[str, Any] = report.meta.get("conditioning", {})
    return options


def describe_no_warning(report: Report) -> str:
    """What may be said where nothing warns."""
    measured = [row for row in report.rows if "lambda_max_x" in row.metrics]
    rate = "" if "lr" in conditioning_options(report) else "; steps were not held against a rate (lr=)"
    return f"No warning on how {plural(len(measured), 'layer')} of the model learns{rate}."


def describe_factor_spread(report: Report) -> str:
    """How level both factors are over depth, and at which loss."""
    spreads = []
    for metric, name in FACTORS:
        values = [float(row.metrics.get(metric, 0.0)) for row in report.rows]
        positive = [value for value in values if value > 0]
        if positive:
            spreads.append(f"{name} {math.log10(max(positive) / min(positive)):.1f}")
    whole = conditioning_options(report).get("whole", {})
    text = (
        f"Over the layers λmax spans, in decades: {', '.join(spreads)}." if spreads else "No layer has a second moment."
    )
    if "loss" in whole and "examples" in whole:
        text += f" Mean loss {whole['loss']:.3g} on {plural(whole['examples'], 'example')}."
    return text


def certainty_sentences(report: Report) -> list[str]:
    """Which Fisher, how many examples, whether K-FAC's product was held against the block itself."""
    options, measured = conditioning_options(report), [row for row in report.rows if "lambda_max_x" in row.metrics]
    mode = "training" if options.get("training") else "evaluation"
    sentences = [f"{printable(options.get('fisher', '?'), 20)} Fisher, loss {printable(options.get('loss', '?'), 60)}, "
            f"convolutions {printable(options.get('conv', '?'), 20)}, the model in {mode} mode."]  # fmt: skip
    starved = sum(finding.code == TOO_FEW_ROWS for finding in report.findings)
    if starved:
        sentences.append(
            f"Too few rows for condition numbers in {starved} of {plural(len(measured), 'layer')} ({TOO_FEW_ROWS})."
        )
    ratios = [float(row.metrics["kfac_ratio"]) for row in measured if "kfac_ratio" in row.metrics]
    if ratios:
        close_count = sum(1 / 3 <= ratio <= 3 for ratio in ratios)
        sentences.append(
            f"K-FAC's λmax is within three times that of the block itself in {close_count} of {len(ratios)} layers."
        )
    else:
        sentences.append("λmax F is K-FAC's product; it was not held against the blocks themselves (exact=True).")
    return sentences


def has_mostly_too_few_rows(report: Report) -> bool:
    """Have most layers too few rows?"""
    measured = sum("lambda_max_x" in row.metrics for row in report.rows)
    return 2 * sum(finding.code == TOO_FEW_ROWS for finding in report.findings) > measured


def describe_coverage(report: Report) -> str:
    """How many of the weights were measured."""
    weights = [row for row in report.rows if len(row.ref.shape) > 1]
    measured = sum("lambda_max_x" in row.metrics for row in weights)
    return f"{measured} of {plural(len(weights), 'weight')} of the model measured."
