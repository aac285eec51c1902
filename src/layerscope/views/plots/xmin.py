"""Choice of xmin, the start of the power-law tail: KS distance and exponent for each candidate."""

from __future__ import annotations

import math

import numpy as np

from layerscope.errors import Absent
from layerscope.fits.power_law import fittable_eigenvalues, scan_tails
from layerscope.records.layers import Fit, LayerReport
from layerscope.records.report import Report
from layerscope.text import plural, printable
from layerscope.views.plots import spectral_density
from layerscope.views.plots.marks import Axis, Band, Line, Mark, Picture, Points, Rule, to_floats
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE = "layer"
PANELS = (Axis("KS distance D", low=0.0), Axis("α"))
MAX_CANDIDATES = 96  # evenly spaced candidates, plus the chosen one
MAX_AXIS_ALPHA = 12.0  # upper end of the α axis


def data(report: Report, layer: LayerReport) -> Picture:
    """Return D and α of each candidate; the smallest D is chosen, and α should be stable around it."""
    title, of = "Choice of xmin, the start of the tail", printable(layer.name, 60)
    axis = Axis("xmin (1/W²)" if report.settings.inverse else "xmin (W²)", "log")
    fit = layer.parts["weight"].fits.get("power_law")
    empty = spectral_density.why_no_spectrum(layer) or _why_no_tail(fit)
    if empty or fit is None or layer.spectrum is None:
        return Picture("xmin", title, "", axis, PANELS, empty=empty, of=of)
    settings = report.settings
    try:
        values = fittable_eigenvalues(layer.spectrum, settings)
    except Absent as why:  # the spectrum was measured with other settings
        return Picture("xmin", title, "", axis, PANELS, empty=str(why), of=of)
    dropped = int(fit.params.get("fingers", 0))
    logs = np.log(values[: len(values) - dropped])
    if len(logs) <= settings.min_tail:
        return Picture(
            "xmin",
            title,
            "",
            axis,
            PANELS,
            empty=f"too few eigenvalues are left without {plural(dropped, 'isolated large eigenvalue')} (fingers)",
            of=of,
        )
    starts, alphas, distances = scan_tails(logs, settings.min_tail, MAX_CANDIDATES, math.log(fit.params["xmin"]))
    x, limits, chosen = to_floats(np.exp(starts)), settings.limits, fit.params
    marks: list[Mark] = [
        Line(tone="ink", x=x, y=to_floats(distances), label="KS distance D"),
        Points(tone="fit", x=(chosen["xmin"],), y=(chosen["ks"],), label=f"chosen xmin, D = {chosen['ks']:.3f}"),
        Rule(tone="fit", at=chosen["xmin"]),
        Band(tone="good", low=limits.over_trained, high=limits.under_trained, panel=1),
        Line(tone="ink", x=x, y=to_floats(alphas), panel=1),
        Rule(tone="fit", at=chosen["xmin"], panel=1),
        _chosen_point(layer, fit),
    ]
    high = min(MAX_AXIS_ALPHA, max(max(to_floats(alphas)), chosen["alpha"]) * 1.05)
    panels = (PANELS[0], Axis(PANELS[1].label, low=1.0, high=max(high, limits.over_trained + 0.5)))
    about = f"{len(logs):,} eigenvalues, tails of at least {settings.min_tail}"
    notes = (f"not shown: α of short tails reaches {max(alphas):.3g}",) if max(alphas) > MAX_AXIS_ALPHA else ()
    return Picture("xmin", title, about, axis, panels, tuple(marks), notes, of=of)


def _chosen_point(layer: LayerReport, fit: Fit) -> Points:
    low, high = (float(layer.metrics.get(name, math.nan)) for name in ("alpha_low", "alpha_high"))
    alpha, n = fit.params["alpha"], fit.params["n_tail"]
    label = f"chosen xmin, α = {alpha:.2f} (n = {n:.0f})"
    return Points(tone="fit", x=(fit.params["xmin"],), y=(alpha,), low=(low,), high=(high,), panel=1, label=label)


def _why_no_tail(fit: Fit | None) -> str:
    if fit is None:
        return "no power law was fitted (see the setting fits)"
    return "" if fit.ok else f"no power-law fit: {fit.reason}"
