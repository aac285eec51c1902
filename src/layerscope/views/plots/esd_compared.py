"""The densities of one layer's eigenvalues in several models, over each other."""

from __future__ import annotations

import numpy as np

from layerscope.records.comparison import ComparedLayer, Comparison
from layerscope.text import elide, plural, printable
from layerscope.views.plots import spectral_density
from layerscope.views.plots.marks import Axis, Mark, Picture, Steps, numbers
from layerscope.views.plots.matplotlib_pen import draw as draw
from layerscope.views.plots.style import pattern, series

SCOPE = "matched"
LONGEST = 30  # characters of a model's name


def data(comparison: Comparison, layer: ComparedLayer) -> Picture:
    """Histograms in the same bins of log λ, and each model's fitted tail."""
    title, of = "Spectral densities", printable(layer.name, 60)
    x, y = spectral_density.axes(comparison.reports[0], log=True)
    found = [report.rows[row] for report, row in zip(comparison.reports, layer.rows, strict=True)]
    reasons = [spectral_density.nothing(row) for row in found]
    lives = [row.spectrum.live for row, why in zip(found, reasons, strict=True) if not why and row.spectrum is not None]
    if not lives:
        return Picture(
            "esd_compared", title, "", x, (y,), empty=reasons[0] if reasons else "the models share no layer", of=of
        )
    at = spectral_density.edges(np.sort(np.concatenate(lives)), log=True)
    marks: list[Mark] = []
    for i, (row, why) in enumerate(zip(found, reasons, strict=True)):
        if why or row.spectrum is None:
            continue
        live, letter = row.spectrum.live, comparison.letters[i]
        fit = row.parts["weight"].fits.get("power_law")
        told = f", α = {fit.params['alpha']:.2f}" if fit is not None and fit.ok else ", no tail"
        heights = spectral_density.density(live, at, len(live))
        name = elide(printable(comparison.names[i]), LONGEST)
        doubt = "?" if layer.doubtful[i : i + 1] == (True,) else ""
        label = f"{letter} {name}: {plural(len(live), 'eigenvalue')}{told}{doubt}"
        marks.append(
            Steps(tone=series(i), label=label, edges=numbers(at), heights=heights, filled=i < 2, pattern=pattern(i))
        )
    lowest = min(height for mark in marks if isinstance(mark, Steps) for height in mark.heights if height > 0)
    missing = [f"{letter}: {why}" for letter, why in zip(comparison.letters, reasons, strict=True) if why]
    axis = Axis(y.label, "log", low=lowest / 2)
    return Picture("esd_compared", title, plural(len(marks), "model"), x, (axis,), tuple(marks), tuple(missing), of=of)
