"""α of each layer with its interval, in the model's order, coloured by verdict."""

from __future__ import annotations

from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import percent, plural, printable
from layerscope.views.plots import layer_axis
from layerscope.views.plots.marks import Axis, Band, Mark, Picture, Points, Rule
from layerscope.views.plots.matplotlib_pen import draw as draw
from layerscope.views.plots.style import shape_of

SCOPE, SECTION = "model", "depth"
CEILING = 12.0  # α above which the axis ends, if any does


def data(report: Report) -> Picture:
    """α ± its interval by depth; the good range is shaded, α beyond the axis stands on its edge as a triangle."""
    layers = layer_axis.analysed(report)
    fitted = [place for place in layers if "alpha" in place.layer.metrics]
    inside = [place for place in fitted if _alpha(place.layer) <= CEILING]
    beyond = [place for place in fitted if _alpha(place.layer) > CEILING]
    limits = report.settings.limits
    marks: list[Mark] = [
        Band(tone="good", low=limits.over_trained, high=limits.under_trained, label=_range(report)),
        Rule(tone="over", at=limits.over_trained, along="x"),
        Rule(tone="under", at=limits.under_trained, along="x"),
    ]
    marks += layer_axis.points(report, inside, lambda p: (p.depth, _alpha(p.layer)), note=note, ends=_ends)
    if beyond:
        marks.append(_edge(beyond))
    missing = len(layers) - len(fitted)
    ends = [_ends(place.layer)[1] for place in inside]
    top = CEILING if beyond else min(CEILING, max([limits.under_trained + 1, *ends]) + 0.5)
    return Picture(
        "alpha_by_depth",
        "α by depth",
        f"{plural(len(fitted), 'layer')}; bars: {percent(report.settings.confidence)} intervals",
        layer_axis.depth_axis(layers),
        (Axis("α, power-law exponent", low=0.5, high=top),),
        tuple(marks) if fitted else (),
        (f"{plural(missing, 'layer')} without α: too small or no fit",) if missing and fitted else (),
        "" if fitted else layer_axis.why_empty(report, "alpha"),
    )


def note(layer: LayerReport) -> str:
    """What is said about one point."""
    low, high = _ends(layer)
    return f"α = {_alpha(layer):.2f} [{low:.2f}, {high:.2f}], {shape_of(layer.ref)[1]}"


def _edge(places: list[layer_axis.Placed]) -> Points:
    return Points(
        tone="quiet",
        label=f"above {CEILING:g} ({len(places)})",
        x=tuple(place.depth for place in places),
        y=(CEILING,) * len(places),
        shape="triangle",
        notes=tuple(f"{printable(place.layer.name, 80)}: {note(place.layer)}" for place in places),
        rows=tuple(place.row for place in places),
    )


def _range(report: Report) -> str:
    limits = report.settings.limits
    return f"α from {limits.over_trained:g} to {limits.under_trained:g}"


def _alpha(layer: LayerReport) -> float:
    return float(layer.metrics["alpha"])


def _ends(layer: LayerReport) -> tuple[float, float]:
    return float(layer.metrics["alpha_low"]), float(layer.metrics["alpha_high"])
