"""The empirical spectral density of a layer, and the laws that are drawn over it, on any axis."""

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
MIN_DRAWN_EIGENVALUE = 1e-150  # of an eigenvalue that is drawn
MAX_RATIO_TO_MEDIAN = 1e3
MAX_DRAWN_SPIKES = 40  # that are drawn one by one


def density_axes(report: Report, *, log: bool) -> tuple[Axis, Axis]:
    """(x, y): eigenvalues and their density, with their units; of 1/λ where the spectra are inverse."""
    scale = "log" if log else "linear"
    if report.settings.inverse:
        return Axis("1/λ, eigenvalue of (WᵀW)⁻¹ (1/W²)", scale), Axis("density (W²)", scale)
    return Axis("eigenvalue λ of WᵀW (W²)", scale), Axis("density (1/W²)", scale)


def bin_count(count: int) -> int:
    """Bins for a spectrum of so many eigenvalues: 2√n, at least 8 and at most 60."""
    return max(8, min(MAX_BINS, round(2 * math.sqrt(count))))


def bin_edges(values: Floats, *, log: bool, high: float | None = None) -> Floats:
    """Equal bins of λ or of log λ, up to the largest value or to ``high``; of log λ from a ``FAR``-th of the median on.

    Near zero a spectrum has a few eigenvalues in many powers of ten, beside which its tail would be a sliver.
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
    """Share of ``total`` values per unit of λ in each bin; the ends count as inside."""
    inside = np.clip(values, edges[0], edges[-1]) if len(values) else values
    counts, _ = np.histogram(inside[(values >= edges[0] * (1 - 1e-9)) & (values <= edges[-1] * (1 + 1e-9))], bins=edges)
    return to_floats(counts / (max(total, 1) * np.diff(edges)))


def histogram(spectrum: Spectrum, edges: Floats) -> Steps:
    """The density of the eigenvalues above zero."""
    live = spectrum.live
    label = f"eigenvalues ({len(live):,})"
    return Steps(tone="ink", label=label, edges=to_floats(edges), heights=bin_densities(live, edges, len(live)))


def tail_line(fit: Fit, total: int, high: float | None = None) -> Line:
    """The fitted power law, p(λ) = (n_tail / total)·(α−1)/xmin·(λ/xmin)^−α from xmin to the largest λ fitted."""
    p = fit.params
    top = min(p.get("xmax", math.inf), math.inf if high is None else high)
    x = np.geomspace(p["xmin"], max(top, p["xmin"] * 1.0001), CURVE_POINTS)
    y = p["n_tail"] / max(total, 1) * (p["alpha"] - 1) / p["xmin"] * (x / p["xmin"]) ** -p["alpha"]
    label = f"power law, α = {p['alpha']:.2f} (n = {p['n_tail']:.0f}, D = {p['ks']:.3f})"
    return Line(tone="fit", label=label, x=to_floats(x), y=to_floats(y))


def tail_start_rule(fit: Fit) -> Rule:
    """Where the tail begins."""
    return Rule(tone="fit", label=f"xmin = {fit.params['xmin']:.3g}", at=fit.params["xmin"])


def bulk_line(spectrum: Spectrum, fit: Fit) -> Line:
    """The Marchenko–Pastur density of the bulk, scaled to the share of eigenvalues that are no spikes."""
    p, live = fit.params, spectrum.live
    m = max(2, round(len(live) / spectrum.k))
    low, high = p["bulk_min"], p["bulk_max"]
    x = low + (high - low) * (1 - np.cos(np.linspace(0.02, math.pi - 0.02, CURVE_POINTS))) / 2
    share = (len(live) - p["spikes"]) / len(live)
    y = share * mp_density(x, spectrum.n, m, p["sigma"])
    what = "Marchenko–Pastur bulk" if fits_bulk(fit) else "Marchenko–Pastur law, which does not fit"
    label = f"{what}: σ = {p['sigma']:.3g}, KS = {p['ks']:.2f}"
    return Line(tone="bulk", label=label, x=to_floats(x), y=to_floats(y), dashed=True)


def fits_bulk(fit: Fit) -> bool:
    """Is the bulk near enough to the law to speak of spikes beyond it? As near as the phases ask."""
    return fit.params["ks"] <= MAX_BULK_KS


def spike_points(spectrum: Spectrum, fit: Fit, height: float, high: float | None = None) -> Points | None:
    """Eigenvalues beyond the random bulk, as ticks at ``height``; none where no bulk fits."""
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
    """Sizes of the matrices, and how many eigenvalues they have."""
    pooled = f" × {spectrum.k}" if spectrum.k > 1 else ""
    return f"{spectrum.n} × {spectrum.m}{pooled}, {plural(len(spectrum.evals), 'eigenvalue')}"


def why_no_spectrum(layer: LayerReport) -> str:
    """Why a layer has no spectrum to draw."""
    if layer.skipped:
        return f"not analysed: {layer.skipped}"
    if layer.spectrum is None:
        return "the report was kept without spectra (JSON leaves them out; --save keeps them)"
    live = layer.spectrum.live
    if not len(live):
        return "all eigenvalues are zero"
    if not MIN_DRAWN_EIGENVALUE < live[0] <= live[-1] < 1 / MIN_DRAWN_EIGENVALUE:
        return f"eigenvalues from {live[0]:.3g} to {live[-1]:.3g}: too near the limits of floating point to be drawn"
    return ""


def describe_omissions(layer: LayerReport, spectrum: Spectrum, low: float = 0.0) -> list[str]:
    """What the picture leaves out, below ``low`` too, and which fits are missing."""
    remarks = []
    below = int((spectrum.live < low * (1 - 1e-9)).sum())
    if below:
        least = float(spectrum.live[0])
        remarks.append(f"{plural(below, 'eigenvalue')} from {least:.2g} to {low:.2g} below the axis")
    zero = len(spectrum.evals) - len(spectrum.live)
    if zero:
        remarks.append(f"{plural(zero, 'eigenvalue')} of zero left out")
    for family, what in (("power_law", "no tail"), ("marchenko_pastur", "no bulk")):
        fit = layer.parts["weight"].fits.get(family)
        if fit is not None and not fit.ok:
            remarks.append(f"{what}: {fit.reason}")
    return remarks
