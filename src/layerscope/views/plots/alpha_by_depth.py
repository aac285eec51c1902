"""α of each layer with its interval, in model order, colored by finding."""

from __future__ import annotations

from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import format_percent, plural, printable
from layerscope.views.plots import layer_axis
from layerscope.views.plots.marks import Axis, Band, Mark, Picture, Points, Rule
from layerscope.views.plots.matplotlib_pen import draw as draw
from layerscope.views.plots.style import point_shape

SCOPE, SECTION = "model", "depth"
MAX_AXIS_ALPHA = 12.0  # the axis ends here if a larger α exists


def data(report: Report) -> Picture:
    """Return α with its interval by depth.

    The reference range is shaded. Values of α beyond the axis are triangles on its edge.
    """
    layers = layer_axis.place_analyzed_layers(report)
    fitted = [place for place in layers if "alpha" in place.layer.metrics]
    inside = [place for place in fitted if _alpha(place.layer) <= MAX_AXIS_ALPHA]
    beyond = [place for place in fitted if _alpha(place.layer) > MAX_AXIS_ALPHA]
    limits = report.settings.limits
    marks: list[Mark] = [
        Band(tone="good", low=limits.over_trained, high=limits.under_trained, label=_describe_range(report)),
        Rule(tone="over", at=limits.over_trained, along="x"),
        Rule(tone="under", at=limits.under_trained, along="x"),
    ]
    marks += layer_axis.verdict_points(
        report, inside, lambda p: (p.depth, _alpha(p.layer)), note=point_note, ends=_interval_ends
    )
    if beyond:
        marks.append(_edge_points(beyond))
    missing = len(layers) - len(fitted)
    ends = [_interval_ends(place.layer)[1] for place in inside]
    top = MAX_AXIS_ALPHA if beyond else min(MAX_AXIS_ALPHA, max([limits.under_trained + 1, *ends]) + 0.5)
    return Picture(
        "alpha_by_depth",
        "α by depth",
        f"{plural(len(fitted), 'layer')}; bars: {format_percent(report.settings.confidence)} confidence intervals",
        layer_axis.depth_axis(layers),
        (Axis("α, power-law exponent", low=0.5, high=top),),
        tuple(marks) if fitted else (),
        (f"{plural(missing, 'layer')} without α (too small or no fit)",) if missing and fitted else (),
        "" if fitted else layer_axis.why_empty(report, "alpha"),
    )


def point_note(layer: LayerReport) -> str:
    """Return the tooltip of one point."""
    low, high = _interval_ends(layer)
    return f"α = {_alpha(layer):.2f} [{low:.2f}, {high:.2f}], {point_shape(layer.ref)[1]}"


def _edge_points(places: list[layer_axis.PlacedLayer]) -> Points:
    return Points(
        tone="quiet",
        label=f"α above {MAX_AXIS_ALPHA:g} ({len(places)})",
        x=tuple(place.depth for place in places),
        y=(MAX_AXIS_ALPHA,) * len(places),
        shape="triangle",
        notes=tuple(f"{printable(place.layer.name, 80)}: {point_note(place.layer)}" for place in places),
        rows=tuple(place.row for place in places),
    )


def _describe_range(report: Report) -> str:
    limits = report.settings.limits
    return f"reference range, α from {limits.over_trained:g} to {limits.under_trained:g}"


def _alpha(layer: LayerReport) -> float:
    return float(layer.metrics["alpha"])


def _interval_ends(layer: LayerReport) -> tuple[float, float]:
    return float(layer.metrics["alpha_low"]), float(layer.metrics["alpha_high"])
