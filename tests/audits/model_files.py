"""Weight files for the tests of audits, and what a diff says about one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerscope.records.report import Report
from tests.requirements import require

torch = require("torch")
save_file = require("safetensors.torch").save_file
Weights = dict[str, Any]


def write(folder: Path, name: str, weights: Weights, dtype: Any = torch.float32) -> str:
    path = folder / f"{name}.safetensors"
    save_file({key: value.to(dtype).contiguous() for key, value in weights.items()}, path)
    return str(path)


def facts(report: Report, name: str) -> dict[str, float]:
    return dict(report.layers[name].parts["weight"].facts)


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}
