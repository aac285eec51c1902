"""Spectral densities of one layer in several models, in one plot."""

from __future__ import annotations

import numpy as np

from layerscope.records.comparison import ComparedLayer, Comparison
from layerscope.text import elide, plural, printable
from layerscope.views.plots import spectral_density
from layerscope.views.plots.marks import Axis, Mark, Picture, Steps, to_floats
from layerscope.views.plots.matplotlib_pen import draw as draw
from layerscope.views.plots.style import outline_pattern, series_tone

SCOPE = "matched"
MAX_NAME_CHARS = 30  # characters of a model's name


def data(comparison: Comparison, layer: ComparedLayer) -> Picture:
    """Return histograms in common bins of log λ; the legend gives the α of each model's fitted tail."""
    title, of = "Spectral densities", printable(layer.name, 60)
    x, y = spectral_density.density_axes(comparison.reports[0], log=True)
    rows = [report.rows[row] for report, row in zip(comparison.reports, layer.rows, strict=True)]
    reasons = [spectral_density.why_no_spectrum(row) for row in rows]
    eigenvalues = [
        row.spectrum.live for row, reason in zip(rows, reasons, strict=True) if not reason and row.spectrum is not None
    ]
    if not eigenvalues:
        return Picture(
            "esd_compared",
            title,
            "",
            x,
            (y,),
            empty=reasons[0] if reasons else "the models have no layer in common",
            of=of,
        )
    edges = spectral_density.bin_edges(np.sort(np.concatenate(eigenvalues)), log=True)
    marks: list[Mark] = []
    for i, (row, reason) in enumerate(zip(rows, reasons, strict=True)):
        if reason or row.spectrum is None:
            continue
        live, letter = row.spectrum.live, comparison.letters[i]
        fit = row.parts["weight"].fits.get("power_law")
        tail = f", α = {fit.params['alpha']:.2f}" if fit is not None and fit.ok else ", no power-law fit"
        heights = spectral_density.bin_densities(live, edges, len(live))
        name = elide(printable(comparison.names[i]), MAX_NAME_CHARS)
        doubt = "?" if layer.doubtful[i : i + 1] == (True,) else ""
        label = f"{letter} {name}: {plural(len(live), 'eigenvalue')}{tail}{doubt}"
        marks.append(
            Steps(
                tone=series_tone(i),
                label=label,
                edges=to_floats(edges),
                heights=heights,
                filled=i < 2,
                pattern=outline_pattern(i),
            )
        )
    lowest = min(height for mark in marks if isinstance(mark, Steps) for height in mark.heights if height > 0)
    missing = [f"{letter}: {reason}" for letter, reason in zip(comparison.letters, reasons, strict=True) if reason]
    axis = Axis(y.label, "log", low=lowest / 2)
    return Picture("esd_compared", title, plural(len(marks), "model"), x, (axis,), tuple(marks), tuple(missing), of=of)
