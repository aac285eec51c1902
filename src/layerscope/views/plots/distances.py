"""How far models are from each other: a matrix with a row and a column for each."""

from __future__ import annotations

import math

from layerscope.records.comparison import Comparison
from layerscope.text import elide, plural, printable
from layerscope.views.plots.marks import Axis, Cells, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "models", "model"
MAX_NAME_CHARS = 40  # characters of a model's name
WEIGHTS_LABEL = "‖A−B‖F / √(‖A‖F‖B‖F): 0 for equal weights, √2 for independent ones of equal norm"
SPECTRA_LABEL = "mean √JSD of the layers' spectra: 0 for equal spectra, at most √ln 2"


def data(comparison: Comparison) -> Picture:
    """Distances of the weights over the matched layers where they were read, else of the spectra."""
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
        empty = "a distance needs two models"
    else:
        empty = "" if known else "the models have no analysed layer of one name and shape in common"
    bound = math.sqrt(2) if weights else math.sqrt(math.log(2))
    most = max([bound, *(x for row in values for x in row if math.isfinite(x))])
    return Picture(
        "distances",
        f"Distances of the {what}",
        f"{plural(len(names), 'model')}, over the layers that each two have in common",
        Axis("", "category", letters),
        (Axis("", "category", names),),
        ()
        if empty
        else (Cells(tone="ink", values=values, most=most, label=WEIGHTS_LABEL if weights else SPECTRA_LABEL),),
        empty=empty,
    )
