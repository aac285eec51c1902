"""Summary sentences for a report of the conditioning lens: results, and how certain they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from layerscope.records.report import Report
from layerscope.text import plural, printable

TOO_FEW_ROWS = "LS209"  # code of the rule "too few rows"
FACTORS = (("lambda_max_x", "inputs"), ("lambda_max_d", "output gradients"))


def conditioning_options(report: Report) -> Mapping[str, Any]:
    """Return the options of the conditioning lens; empty if the report is from another lens."""
    options: Mapping[str, Any] = report.meta.get("conditioning", {})
    return options


def describe_no_warning(report: Report) -> str:
    """Describe a report without warnings."""
    measured = [row for row in report.rows if "lambda_max_x" in row.metrics]
    rate = "" if "lr" in conditioning_options(report) else " The learning rate was not checked; set lr to check it."
    return f"No problems found in {plural(len(measured), 'layer')}.{rate}"


def describe_factor_spread(report: Report) -> str:
    """Describe how much the λmax of both covariances varies across layers, and the loss."""
    spreads: list[str] = []
    for metric, name in FACTORS:
        values = [float(row.metrics.get(metric, 0.0)) for row in report.rows]
        positive = [value for value in values if value > 0]
        if len(positive) > 1:
            unit = "" if spreads else " decades"
            spreads.append(f"{math.log10(max(positive) / min(positive)):.1f}{unit} for {name}")
    whole = conditioning_options(report).get("whole", {})
    text = (
        f"Across layers, λmax varies by {' and '.join(spreads)}."
        if spreads
        else "λmax was measured in fewer than two layers, so it cannot be compared."
    )
    if "loss" in whole and "examples" in whole:
        text += f" The mean loss is {whole['loss']:.3g} on {plural(whole['examples'], 'example')}."
    return text


def certainty_sentences(report: Report) -> list[str]:
    """Describe the options, layers with too few rows, and how well K-FAC approximates the exact Fisher blocks."""
    options, measured = conditioning_options(report), [row for row in report.rows if "lambda_max_x" in row.metrics]
    mode = "training" if options.get("training") else "evaluation"
    fisher, conv = (printable(options.get(key, "?"), 20) for key in ("fisher", "conv"))
    loss = printable(options.get("loss", "?"), 60)
    sentences = [f"Measured with fisher={fisher}, loss={loss} and conv={conv}, with the model in {mode} mode."]
    starved = sum(finding.code == TOO_FEW_ROWS for finding in report.findings)
    if starved:
        sentences.append(
            f"{starved} of {plural(len(measured), 'layer')} had too few rows to estimate condition numbers "
            f"({TOO_FEW_ROWS})."
        )
    ratios = [float(row.metrics["kfac_ratio"]) for row in measured if "kfac_ratio" in row.metrics]
    if ratios:
        close_count = sum(1 / 3 <= ratio <= 3 for ratio in ratios)
        sentences.append(
            f"K-FAC's λmax is within a factor of 3 of the exact Fisher block's in {close_count} of "
            f"{plural(len(ratios), 'layer')}."
        )
    else:
        sentences.append("λmax F is the K-FAC approximation; set exact to compare it with the exact Fisher blocks.")
    return sentences


def has_mostly_too_few_rows(report: Report) -> bool:
    """Return whether most layers have too few rows."""
    measured = sum("lambda_max_x" in row.metrics for row in report.rows)
    return 2 * sum(finding.code == TOO_FEW_ROWS for finding in report.findings) > measured


def describe_coverage(report: Report) -> str:
    """Describe how many of the model's weights were measured."""
    weights = [row for row in report.rows if len(row.ref.shape) > 1]
    measured = sum("lambda_max_x" in row.metrics for row in weights)
    return f"Measured {measured} of {plural(len(weights), 'weight tensor')}."
