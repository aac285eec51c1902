"""The density of a layer's eigenvalues on logarithmic axes: the tail is a straight line."""

from __future__ import annotations

from layerscope.report import Report
from layerscope.types import LayerReport
from layerscope.views.plots import _esd
from layerscope.views.plots._marks import Axis, Mark, Picture
from layerscope.views.plots._pen import draw as draw
from layerscope.views.text import printable

SCOPE = "layer"


def data(report: Report, layer: LayerReport) -> Picture:
    """Histogram in bins of log λ, the fitted tail from xmin on, the random bulk and what lies beyond it."""
    title, of = "Spectral density", printable(layer.name, 60)
    x, y = _esd.axes(report, log=True)
    empty = _esd.nothing(layer)
    if empty or layer.spectrum is None:
        return Picture("esd", title, "", x, (y,), empty=empty, of=of)
    spectrum, fits = layer.spectrum, layer.parts["weight"].fits
    steps = _esd.histogram(spectrum, _esd.edges(spectrum.live, log=True))
    lowest = min(height for height in steps.heights if height > 0)
    marks: list[Mark] = [steps]
    bulk = fits.get("marchenko_pastur")
    if bulk is not None and bulk.ok:
        spikes = _esd.spikes(spectrum, bulk, lowest / 2)
        marks += [_esd.bulk(spectrum, bulk), *([spikes] if spikes else [])]
    power_law = fits.get("power_law")
    if power_law is not None and power_law.ok:
        marks += [_esd.tail(power_law, len(spectrum.live)), _esd.start(power_law)]
    axis = Axis(y.label, "log", low=lowest / 4)
    notes = tuple(_esd.remarks(layer, spectrum, steps.edges[0]))
    about = _esd.about(layer, spectrum)
    return Picture("esd", title, about, x, (axis,), tuple(marks), notes, of=of)
