"""A configuration of mergekit for the models of a merge check."""

from __future__ import annotations

import json

from layerscope.records.merge_check import MergeCheck

MAX_CONFLICTS = 0.3  # share of conflicting entries up to which a weighted mean is proposed; above it, TIES
DENSITY = 0.5  # share of each task vector that TIES keeps, the default of its authors' examples
MAX_RATIO = 2.0  # of the norms of two task vectors, above which weights balance them
DIGITS = 4


def make(check: MergeCheck) -> str:
    """Return YAML: a linear mean of the models, or TIES if many of their entries have conflicting signs.

    The weights are equal, or proportional to 1/‖Δᵢ‖ if the norms differ by more than a factor of two. They sum to 1.
    """
    conflicts = check.whole.conflicts or 0.0
    weights = balanced_weights(check)
    method = "ties" if conflicts > MAX_CONFLICTS else "linear"
    lines = [
        f"# {100 * conflicts:.0f} % of the entries that several models changed have conflicting signs.",
        "# This configuration follows from the weights alone: evaluate the result before using it.",
        f"merge_method: {method}",
    ]
    if method == "ties":
        lines.append(f"base_model: {_quote(check.base)}")
    lines.append("models:")
    for target, weight in zip(check.meta["targets"], weights, strict=True):
        lines += [f"  - model: {_quote(target)}", "    parameters:", f"      weight: {weight}"]
        lines += [f"      density: {DENSITY}"] if method == "ties" else []
    lines += ["parameters:", "  normalize: true"] if method == "ties" else []
    lines.append("dtype: bfloat16")
    return "\n".join(lines) + "\n"


def balanced_weights(check: MergeCheck) -> list[float]:
    """Return weights that sum to 1: equal ones, or such that every task vector has the same norm."""
    norms = check.whole.norms
    count = len(norms)
    if min(norms) <= 0 or max(norms) <= MAX_RATIO * min(norms):
        return [round(1 / count, DIGITS)] * count
    inverse = [1 / norm for norm in norms]
    return [round(value / sum(inverse), DIGITS) for value in inverse]


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
