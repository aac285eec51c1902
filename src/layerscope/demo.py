"""Texts and paths of ``layerscope demo``: two small example networks, trained by ``scripts/train_demo.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerscope.records.report import Report

FAULTS = ("LS103", "LS114", "LS115")  # of the damaged copy
_DATA = Path(__file__).parent / "data"
NETWORKS = (str(_DATA / "digits_well_trained.safetensors"), str(_DATA / "digits_damaged.safetensors"))

STORY = """\
This demo analyzes two files of one network that classifies 8×8 digits. The
first is as it was trained, with a test accuracy of 98.8 %. The second is a
damaged copy, with an accuracy below 10 %: one layer lost its training, one
weight has a wrong value, and some units died. layerscope sees no images here:
it reads only the weights, and says which layers are damaged.
"""

READING = """
How to read the tables
  LS103, LS115, … are verdicts. Those with a text below the table are worth a
  look, the gravest first, with the step to take; the others describe a layer.
  α is the power-law exponent of a layer's eigenvalues, with its 90 % interval.
  A ? marks an α that cannot be interpreted.
  logλmax is the scale of a layer: log10 of the largest eigenvalue.
"""
NEXT = """\
Next steps
  layerscope explain LS103        Explain this verdict: evidence and caveats.
  layerscope analyze YOUR-MODEL   Analyze your own file, folder or hub id."""


def closing(reports: Sequence[Report]) -> str:
    """Explain the tables, name the damaged layers of the second file, and list the next steps."""
    counts = [sum(f.severity != "info" for f in report.findings) for report in reports]
    found = "".join(f"\n    {f.code} {f.title} in {f.layer}" for f in reports[1].findings if f.code in FAULTS)
    warnings = f"  Warnings in the first file: {counts[0]}; in the second: {counts[1]}."
    return f"{READING}\n{warnings}\n  Found there:{found}\n\n{NEXT}"
