"""Shares of dying units (never active) and full units (always active) by depth."""

from __future__ import annotations

from layerscope.records.report import Report
from layerscope.text import plural, printable
from layerscope.views.plots import layer_axis
from layerscope.views.plots.marks import Axis, Picture, Points
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "model", "learning"
KINDS = (("dying", "dying, never active", "bad", "down"), ("full", "full, always active", "under", "triangle"))


def data(report: Report) -> Picture:
    """Return the share of dying and full units of each layer before a ReLU, in model order."""
    layers = layer_axis.place_analyzed_layers(report)
    measured = [place for place in layers if {"dying", "full"} <= place.layer.metrics.keys()]
    places = [place for place in measured if place.layer.parts["weight"].facts.get("units", 0) > 0]
    units = [place.layer.parts["weight"].facts["units"] for place in places]
    marks = []
    for name, label, tone, shape in KINDS:
        counts = [float(place.layer.metrics[name]) for place in places]
        shares = tuple(100 * count / total for count, total in zip(counts, units, strict=True))
        notes = [
            f"{printable(place.layer.name, 80)}: {count:.0f} of {total:.0f} units {label}"
            for place, count, total in zip(places, counts, units, strict=True)
        ]
        x, rows = tuple(place.depth for place in places), tuple(place.row for place in places)
        marks.append(
            Points(
                tone=tone,
                label=f"{label} ({sum(counts):.0f})",
                x=x,
                y=shares,
                shape=shape,
                notes=tuple(notes),
                rows=rows,
            )
        )
    examples = max((place.layer.parts["weight"].facts.get("examples", 0) for place in places), default=0)
    about = f"{plural(len(places), 'layer')} before a ReLU, {examples:,.0f} examples"
    empty = "" if places else "no ReLU after a layer was found"
    panels = (Axis("share of units, %", low=-4.0, high=104.0),)
    title = "Dying and full units by depth"
    shown = tuple(marks) if places else ()
    return Picture("neurons_by_depth", title, about, layer_axis.depth_axis(layers), panels, shown, empty=empty)
