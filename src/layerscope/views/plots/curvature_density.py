"""The spectral density of the loss' curvature over the whole model."""

from __future__ import annotations

import numpy as np

from layerscope.numerics.lanczos_quadrature import density
from layerscope.records.report import Report
from layerscope.text import printable
from layerscope.views.plots.marks import Axis, Line, Mark, Picture, Rule, numbers
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "model", "learning"
WORDS = {"hessian": "Hessian", "ggn": "Gauss–Newton matrix", "fisher": "Fisher matrix"}
POINTS = 300
FINE = 0.01  # width of a node, of the range of all
LEAST = 1e-8  # of the highest: below it the curve is not drawn


def data(report: Report) -> Picture:
    """The density by Lanczos quadrature, each node a Gaussian; λmax, and what the learning rate can follow."""
    how = report.meta.get("conditioning", {})
    told = how.get("curvature", {})
    matrix = printable(told.get("matrix", "curvature"), 20)
    title, axes = f"Density of the {WORDS.get(matrix, matrix)}", (Axis("density", "log"),)
    nodes, weights = (np.atleast_2d(np.asarray(told.get(name, []), float)) for name in ("nodes", "weights"))
    if nodes.size < 2 or nodes.shape != weights.shape:
        empty = "the curvature was not asked for (curvature_of)"
        return Picture("curvature_density", title, "", Axis("eigenvalue"), axes, empty=empty)
    kept = nodes[weights > 0]
    width = FINE * float(np.ptp(kept)) or FINE
    at = np.linspace(float(kept.min()) - 4 * width, float(kept.max()) + 4 * width, POINTS)
    curve = density(nodes, weights, at, width)
    curve[curve < LEAST * curve.max()] = np.nan
    top = float(told["values"][0])
    marks: list[Mark] = [
        Line(tone="series0", label=f"{len(nodes)} probes of {nodes.shape[1]} steps", x=numbers(at), y=numbers(curve)),
        Rule(tone="over", label=f"λmax = {top:.3g}", at=top),
    ]
    if "lr" in how and 2 / float(how["lr"]) < 2 * float(at[-1]):
        marks.append(Rule(tone="bad", label="2/lr", at=2 / float(how["lr"]), dashed=False))
    about = f"{told['params']:,} parameters, trace {told['trace']:.3g} ± {told['trace_error'] or 0:.1g}"
    return Picture("curvature_density", title, about, Axis("eigenvalue"), axes, tuple(marks))
