"""Spectral density of a layer on linear axes, which show the bulk."""

from __future__ import annotations

import numpy as np

from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit, LayerReport
from layerscope.records.report import Report
from layerscope.text import plural, printable
from layerscope.views.plots import spectral_density
from layerscope.views.plots.marks import Axis, Mark, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE = "layer"
MAX_AXIS_SPAN = 4.0  # length of the axis, as a multiple of the bulk's edge or of the 90 % quantile


def data(report: Report, layer: LayerReport) -> Picture:
    """Return a histogram in equal bins of λ, from zero to a multiple of the bulk's edge."""
    title, of = "Spectral density, linear axes", printable(layer.name, 60)
    x, y = spectral_density.density_axes(report, log=False)
    empty = spectral_density.why_no_spectrum(layer)
    if empty or layer.spectrum is None:
        return Picture("esd_linear", title, "", x, (y,), empty=empty, of=of)
    spectrum, fits = layer.spectrum, layer.parts["weight"].fits
    bulk, power_law = fits.get("marchenko_pastur"), fits.get("power_law")
    high, beyond = _axis_end(spectrum, bulk)
    steps = spectral_density.histogram(spectrum, spectral_density.bin_edges(spectrum.live, log=False, high=high))
    marks: list[Mark] = [steps]
    if bulk is not None and bulk.ok:
        spikes = spectral_density.spike_points(spectrum, bulk, max(steps.heights) / 40, high)
        marks += [spectral_density.bulk_line(spectrum, bulk), *([spikes] if spikes else [])]
    if power_law is not None and power_law.ok and power_law.params["xmin"] < high:
        marks += [
            spectral_density.tail_line(power_law, len(spectrum.live), high),
            spectral_density.tail_start_rule(power_law),
        ]
    notes = spectral_density.describe_omissions(layer, spectrum)
    if beyond:
        last = float(spectrum.live[-1])
        notes.append(f"not shown: {plural(beyond, 'eigenvalue')} from {high:.3g} to {last:.3g}, beyond the axis")
    x, y = Axis(x.label, low=0.0, high=high), Axis(y.label, low=0.0, high=1.15 * max(steps.heights))
    about = spectral_density.describe_sizes(layer, spectrum)
    return Picture("esd_linear", title, about, x, (y,), tuple(marks), tuple(notes), of=of)


def _axis_end(spectrum: Spectrum, bulk: Fit | None) -> tuple[float, int]:
    """Return (end of the axis, number of eigenvalues beyond it)."""
    live = spectrum.live
    anchor = bulk.params["edge"] if bulk is not None and bulk.ok else float(np.quantile(live, 0.9))
    high = min(float(live[-1]), MAX_AXIS_SPAN * anchor)
    return high, int((live > high * (1 + 1e-9)).sum())
