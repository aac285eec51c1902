"""Spectral density of a layer on logarithmic axes, where a power-law tail is a straight line."""

from __future__ import annotations

from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import printable
from layerscope.views.plots import spectral_density
from layerscope.views.plots.marks import Axis, Mark, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE = "layer"


def data(report: Report, layer: LayerReport) -> Picture:
    """Return a histogram in bins of log λ, the fitted tail from xmin on, the random bulk and the spikes beyond it."""
    title, of = "Spectral density", printable(layer.name, 60)
    x, y = spectral_density.density_axes(report, log=True)
    empty = spectral_density.why_no_spectrum(layer)
    if empty or layer.spectrum is None:
        return Picture("esd", title, "", x, (y,), empty=empty, of=of)
    spectrum, fits = layer.spectrum, layer.parts["weight"].fits
    steps = spectral_density.histogram(spectrum, spectral_density.bin_edges(spectrum.live, log=True))
    lowest = min(height for height in steps.heights if height > 0)
    marks: list[Mark] = [steps]
    bulk = fits.get("marchenko_pastur")
    if bulk is not None and bulk.ok:
        spikes = spectral_density.spike_points(spectrum, bulk, lowest / 2)
        marks += [spectral_density.bulk_line(spectrum, bulk), *([spikes] if spikes else [])]
    power_law = fits.get("power_law")
    if power_law is not None and power_law.ok:
        marks += [
            spectral_density.tail_line(power_law, len(spectrum.live)),
            spectral_density.tail_start_rule(power_law),
        ]
    axis = Axis(y.label, "log", low=lowest / 4)
    notes = tuple(spectral_density.describe_omissions(layer, spectrum, steps.edges[0]))
    about = spectral_density.describe_sizes(layer, spectrum)
    return Picture("esd", title, about, x, (axis,), tuple(marks), notes, of=of)
