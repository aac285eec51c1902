"""Marks of a layer's empirical spectral density and of the fitted laws, for linear and logarithmic axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from layerscope.metrics.phase import MAX_BULK_KS
from layerscope.numerics.random_matrix import mp_density
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit, LayerReport
from layerscope.records.report import Report
from layerscope.text import plural
from layerscope.views.plots.marks import Axis, Line, Numbers, Points, Rule, Steps, to_floats

if TYPE_CHECKING:
    from layerscope.array_types import Floats

MAX_BINS = 60
CURVE_POINTS = 48  # points of a curve
MIN_DRAWN_EIGENVALUE = 1e-150  # smaller eigenvalues are too close to the limits of floating point
MAX_RATIO_TO_MEDIAN = 1e3  # bins of log λ start at the median divided by this
MAX_DRAWN_SPIKES = 40  # isolated large eigenvalues drawn as ticks


def density_axes(report: Report, *, log: bool) -> tuple[Axis, Axis]:
    """Return the axes for eigenvalues (1/λ for inverse spectra) and their density, with units."""
    scale = "log" if log else "linear"
    if report.settings.inverse:
        return Axis("1/λ, eigenvalue of (WᵀW)⁻¹ (1/W²)", scale), Axis("density (W²)", scale)
    return Axis("eigenvalue λ of WᵀW (W²)", scale), Axis("density (1/W²)", scale)


def bin_count(count: int) -> int:
    """Return the number of bins for ``count`` eigenvalues: 2√n, at least 8 and at most 60."""
    return max(8, min(MAX_BINS, round(2 * math.sqrt(count))))


def bin_edges(values: Floats, *, log: bool, high: float | None = None) -> Floats:
    """Return equal bins of λ or log λ, up to the largest value or ``high``.

    Bins of log λ start at the median divided by ``MAX_RATIO_TO_MEDIAN``. Otherwise a few eigenvalues near zero, spread
    over many powers of ten, would compress the tail into a sliver of the plot.
    """
    low, top = (
        max(float(values[0]), float(np.median(values)) / MAX_RATIO_TO_MEDIAN),
        float(values[-1]) if high is None else high,
    )
    if top <= low * (1 + 1e-9):
        low, top = low * 0.9, top * 1.1
    count = bin_count(len(values))
    return np.geomspace(low, top, count + 1) if log else np.linspace(0.0, top, count + 1)


def bin_densities(values: Floats, edges: Floats, total: int) -> Numbers:
    """Return the share of ``total`` values per unit of λ in each bin; both ends are inclusive."""
    inside = np.clip(values, edges[0], edges[-1]) if len(values) else values
    counts, _ = np.histogram(inside[(values >= edges[0] * (1 - 1e-9)) & (values <= edges[-1] * (1 + 1e-9))], bins=edges)
    return to_floats(counts / (max(total, 1) * np.diff(edges)))


def histogram(spectrum: Spectrum, edges: Floats) -> Steps:
    """Return the density of the nonzero eigenvalues."""
    live = spectrum.live
    label = f"eigenvalues ({len(live):,})"
    return Steps(tone="ink", label=label, edges=to_floats(edges), heights=bin_densities(live, edges, len(live)))


def tail_line(fit: Fit, total: int, high: float | None = None) -> Line:
    """Return the fitted power law p(λ) = (n_tail / total)·(α−1)/xmin·(λ/xmin)^−α, from xmin to the largest fitted λ."""
    p = fit.params
    top = min(p.get("xmax", math.inf), math.inf if high is None else high)
    x = np.geomspace(p["xmin"], max(top, p["xmin"] * 1.0001), CURVE_POINTS)
    y = p["n_tail"] / max(total, 1) * (p["alpha"] - 1) / p["xmin"] * (x / p["xmin"]) ** -p["alpha"]
    label = f"power law, α = {p['alpha']:.2f} (n = {p['n_tail']:.0f}, D = {p['ks']:.3f})"
    return Line(tone="fit", label=label, x=to_floats(x), y=to_floats(y))


def tail_start_rule(fit: Fit) -> Rule:
    """Return a line at xmin, the start of the tail."""
    return Rule(tone="fit", label=f"xmin = {fit.params['xmin']:.3g}", at=fit.params["xmin"])


def bulk_line(spectrum: Spectrum, fit: Fit) -> Line:
    """Return the Marchenko–Pastur density of the bulk, scaled to the share of eigenvalues that are not spikes."""
    p, live = fit.params, spectrum.live
    m = max(2, round(len(live) / spectrum.k))
    low, high = p["bulk_min"], p["bulk_max"]
    x = low + (high - low) * (1 - np.cos(np.linspace(0.02, math.pi - 0.02, CURVE_POINTS))) / 2
    share = (len(live) - p["spikes"]) / len(live)
    y = share * mp_density(x, spectrum.n, m, p["sigma"])
    what = "Marchenko–Pastur bulk" if fits_bulk(fit) else "Marchenko–Pastur law (poor fit)"
    label = f"{what}: σ = {p['sigma']:.3g}, KS = {p['ks']:.2f}"
    return Line(tone="bulk", label=label, x=to_floats(x), y=to_floats(y), dashed=True)


def fits_bulk(fit: Fit) -> bool:
    """Return whether the bulk fits well enough to count spikes beyond it, by the same limit as the phases."""
    return fit.params["ks"] <= MAX_BULK_KS


def spike_points(spectrum: Spectrum, fit: Fit, height: float, high: float | None = None) -> Points | None:
    """Return the eigenvalues beyond the random bulk as ticks at ``height``, or None if no bulk fits."""
    if not fits_bulk(fit):
        return None
    count = int(fit.params["spikes"])
    values = spectrum.live[len(spectrum.live) - count :][-MAX_DRAWN_SPIKES:]
    if high is not None:
        values = values[values <= high]
    if not count or not len(values):
        return None
    limit = f", the {MAX_DRAWN_SPIKES} largest" if count > MAX_DRAWN_SPIKES else ""
    return Points(
        tone="spike",
        label=f"spikes beyond the bulk ({count:,}{limit})",
        x=to_floats(values),
        y=(height,) * len(values),
        shape="tick",
        notes=tuple(f"λ = {value:.4g}" for value in values),
    )


def describe_sizes(layer: LayerReport, spectrum: Spectrum) -> str:
    """Return the matrix shape and the number of eigenvalues."""
    pooled = f" × {spectrum.k}" if spectrum.k > 1 else ""
    return f"{spectrum.n} × {spectrum.m}{pooled}, {plural(len(spectrum.evals), 'eigenvalue')}"


def why_no_spectrum(layer: LayerReport) -> str:
    """Return the reason why a layer has no spectrum to draw, or ""."""
    if layer.skipped:
        return f"not analyzed: {layer.skipped}"
    if layer.spectrum is None:
        return "the report was stored without spectra (JSON leaves them out; --save keeps them)"
    live = layer.spectrum.live
    if not len(live):
        return "all eigenvalues are zero"
    if not MIN_DRAWN_EIGENVALUE < live[0] <= live[-1] < 1 / MIN_DRAWN_EIGENVALUE:
        return f"eigenvalues from {live[0]:.3g} to {live[-1]:.3g} are too close to the limits of floating point to draw"
    return ""


def describe_omissions(layer: LayerReport, spectrum: Spectrum, low: float = 0.0) -> list[str]:
    """Return notes on eigenvalues that are not shown (zeros and those below ``low``) and on missing fits."""
    remarks = []
    below = int((spectrum.live < low * (1 - 1e-9)).sum())
    if below:
        least = float(spectrum.live[0])
        remarks.append(f"not shown: {plural(below, 'eigenvalue')} from {least:.2g} to {low:.2g}, below the axis")
    zero = len(spectrum.evals) - len(spectrum.live)
    if zero:
        remarks.append(f"not shown: {plural(zero, 'eigenvalue')} equal to zero")
    for family, what in (("power_law", "no power-law fit"), ("marchenko_pastur", "no Marchenko–Pastur fit")):
        fit = layer.parts["weight"].fits.get(family)
        if fit is not None and not fit.ok:
            remarks.append(f"{what}: {fit.reason}")
    return remarks
