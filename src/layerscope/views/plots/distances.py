"""Plot of the distances between models: a matrix with one row and one column for each model."""

from __future__ import annotations

import math

from layerscope.records.comparison import Comparison
from layerscope.text import elide, plural, printable
from layerscope.views.plots.marks import Axis, Cells, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "models", "model"
MAX_NAME_CHARS = 40  # longer model names are shortened
WEIGHTS_LABEL = "‖A−B‖F / √(‖A‖F‖B‖F): 0 for equal weights, √2 for independent ones of equal norm"
SPECTRA_LABEL = "mean √JSD between the layers' spectra: 0 for equal spectra, at most √ln 2"


def data(comparison: Comparison) -> Picture:
    """Distances between the weights of matched layers, or between their spectra if the weights were not read."""
    weights = comparison.apart.get("weights")
    matrix = weights or comparison.apart.get("spectra", ())
    what = "weights" if weights else "spectra"
    letters = comparison.letters
    names = tuple(
        f"{elide(printable(name), MAX_NAME_CHARS)}  {x}" for x, name in zip(letters, comparison.names, strict=True)
    )
    values = tuple(tuple(math.nan if x is None else x for x in row) for row in matrix)
    known = any(math.isfinite(x) for i, row in enumerate(values) for j, x in enumerate(row) if i != j)
    if len(names) < 2:
        empty = "distances need at least two models"
    else:
        empty = "" if known else "no analyzed layer has the same name and shape in two of the models"
    bound = math.sqrt(2) if weights else math.sqrt(math.log(2))
    most = max([bound, *(x for row in values for x in row if math.isfinite(x))])
    return Picture(
        "distances",
        f"Distances between models ({what})",
        f"{plural(len(names), 'model')}, over the layers that each pair shares",
        Axis("", "category", letters),
        (Axis("", "category", names),),
        ()
        if empty
        else (Cells(tone="ink", values=values, most=most, label=WEIGHTS_LABEL if weights else SPECTRA_LABEL),),
        empty=empty,
    )
