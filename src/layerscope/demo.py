"""Texts and paths of ``layerscope demo``: two small example networks, trained by ``scripts/train_demo.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerscope.records.report import Report

_DATA = Path(__file__).parent / "data"
NETWORKS = (str(_DATA / "digits_well_trained.safetensors"), str(_DATA / "digits_over_regularised.safetensors"))

STORY = """\
This demo analyzes two networks that classify 8×8 digits. They have the same
layers, initial weights and training data. The first is well trained and has a
test accuracy of 98.8 %. The second was trained with twenty times the weight
decay, which lowers its accuracy to 97.0 %. layerscope sees no images here: it
reads only the weights.
"""

READING = """
How to read the tables
  α is the power-law exponent of a layer's eigenvalues. It lies between 2 and 6
  in most well-trained layers. Below 2, a few directions hold most of the layer.
  ± is the 90 % interval of α. A ? marks an α too uncertain for a verdict.
  logλmax is the scale of a layer: log10 of the largest eigenvalue.
"""
NEXT = """\
Next steps
  layerscope explain LS101        Explain this verdict: evidence and caveats.
  layerscope analyze YOUR-MODEL   Analyze your own file, folder or hub id."""


def closing(reports: Sequence[Report]) -> str:
    """Explain the tables, count the layers with verdict LS101 in both reports, and list the next steps."""
    well, over = (report.summary["findings"].get("LS101", 0) for report in reports)
    fitted = [report.summary["averaged"] for report in reports]
    counts = (
        f"\n  α is below 2 (verdict LS101) in {well} of {fitted[0]} layers in the first network\n"
        f"  and in {over} of {fitted[1]} layers in the second."
    )
    return f"{READING}{counts}\n\n{NEXT}"
