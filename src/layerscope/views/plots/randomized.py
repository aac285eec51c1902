"""Spectrum of a layer compared with the spectrum of its entries in random order.

Shuffling keeps the sizes of the entries and destroys their structure.
"""

from __future__ import annotations

import numpy as np

from layerscope.metrics.random_matrix import is_grave_trap
from layerscope.numerics.spectrum import Mode
from layerscope.records.layers import LayerReport, Measurement
from layerscope.records.report import Report
from layerscope.text import plural, printable
from layerscope.views.plots import spectral_density
from layerscope.views.plots.marks import Axis, Mark, Picture, Points, Rule, Steps, to_floats
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, NEEDS = "layer", "randomize"


def data(report: Report, layer: LayerReport) -> Picture:
    """Return both histograms in common bins of log λ, the bulk edge of the shuffles and the traps beyond it."""
    title, of = "Spectrum compared with shuffled entries", printable(layer.name, 60)
    x, y = spectral_density.density_axes(report, log=True)
    shuffles = [p for role, p in layer.parts.items() if role.startswith("shuffle") and p.spectrum is not None]
    empty = spectral_density.why_no_spectrum(layer) or (
        "" if shuffles else "no shuffles were measured (use --randomize)"
    )
    if empty or layer.spectrum is None:
        return Picture("randomized", title, "", x, (y,), empty=empty, of=of)
    shuffled = np.sort(np.concatenate([part.spectrum.live for part in shuffles if part.spectrum is not None]))
    live = layer.spectrum.live
    edges = spectral_density.bin_edges(np.sort(np.concatenate([live, shuffled])), log=True)
    original = spectral_density.histogram(layer.spectrum, edges)
    random = Steps(
        tone="fit",
        label=f"shuffled entries ({plural(len(shuffles), 'shuffle')})",
        edges=to_floats(edges),
        heights=spectral_density.bin_densities(shuffled, edges, len(shuffled)),
        filled=False,
        pattern=1,
    )
    lowest = min(height for height in (*original.heights, *random.heights) if height > 0)
    marks: list[Mark] = [original, random]
    marks += [
        Rule(tone="fit", at=edge, label=f"bulk edge of the shuffles, {edge:.3g}") for edge in _mean_bulk_edge(shuffles)
    ]
    notes = (
        spectral_density.describe_omissions(layer, layer.spectrum, float(edges[0]))[:1]
        if live[0] < edges[0] * (1 - 1e-9)
        else []
    )
    traps = [mode for part in shuffles for mode in part.modes]
    if traps:
        marks.append(_trap_points(traps, report.settings.limits.trap_size, lowest / 2))
    else:
        notes.append("no correlation traps: no shuffle has an eigenvalue beyond its bulk edge")
    if "rand_distance" in layer.metrics:
        about = f"rand_distance = {layer.metrics['rand_distance']:.3f}"
        if "rand_null" in layer.metrics:
            about += f", {layer.metrics['rand_null']:.3f} between shuffles"
    else:
        about = spectral_density.describe_sizes(layer, layer.spectrum)
    return Picture(
        "randomized", title, about, x, (Axis(y.label, "log", low=lowest / 4),), tuple(marks), tuple(notes), of=of
    )


def _mean_bulk_edge(shuffles: list[Measurement]) -> list[float]:
    edges = [fit.params["edge"] for part in shuffles if (fit := part.fits.get("marchenko_pastur")) and fit.ok]
    return [float(np.mean(edges))] if edges else []


def _trap_points(traps: list[Mode], size: float, height: float) -> Points:
    heavy = sum(is_grave_trap(mode, size) for mode in traps)
    return Points(
        tone="spike",
        label=f"correlation traps ({len(traps)}, {heavy} from a single outlier weight)",
        x=to_floats(mode.value for mode in traps),
        y=(height,) * len(traps),
        shape="down",
        notes=tuple(_describe_mode(mode) for mode in traps),
    )


def _describe_mode(mode: Mode) -> str:
    text = f"λ = {mode.value:.4g}, {mode.value / mode.edge:.3g} times the bulk edge" if mode.edge else ""
    return text + (f", {mode.share:.0%} from the weight at {list(mode.entry)}" if mode.entry else "")
