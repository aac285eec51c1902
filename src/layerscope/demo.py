"""The two small networks that the package carries, and what to see in them (``scripts/train_demo.py`` trains them)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerscope.records.report import Report

_DATA = Path(__file__).parent / "data"
NETWORKS = (str(_DATA / "digits_well_trained.safetensors"), str(_DATA / "digits_over_regularised.safetensors"))

STORY = """\
Two networks for 8×8 digits: the same layers, the same start, the same data. One
was trained well (test accuracy 98.8 %); the other with twenty times the weight
decay, which cost it accuracy (97.0 %). Nothing below has seen an image: only the
weights are read.
"""

READING = """
How to read it
  α is the power-law exponent of a layer's eigenvalues: 2 to 6 in well-trained
  layers, below 2 where a few directions hold most of the layer. ± is its
  interval; a ? marks an α too uncertain for a verdict. logλmax is the layer's
  scale: it stands beside the shape and is never mixed with it.
"""
NEXT = """\
  layerscope explain LS101        what it means, its evidence, its caveats
  layerscope analyze YOUR-MODEL   the same for a file, a folder or a hub id"""


def closing(reports: Sequence[Report]) -> str:
    """What was seen, said in words, from the reports themselves."""
    well, over = (report.summary["findings"].get("LS101", 0) for report in reports)
    fitted = [report.summary["averaged"] for report in reports]
    counts = (
        f"\n  Over-trained by their spectra: {well} of {fitted[0]} layers in the first network,\n"
        f"  {over} of {fitted[1]} in the second."
    )
    return f"{READING}{counts}\n\n{NEXT}"
