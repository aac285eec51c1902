"""Spectral density of the curvature of the loss, over all parameters of the model."""

from __future__ import annotations

import numpy as np

from layerscope.numerics.lanczos_quadrature import density
from layerscope.records.report import Report
from layerscope.text import plural, printable
from layerscope.views.plots.marks import Axis, Line, Mark, Picture, Rule, to_floats
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "model", "learning"
MATRIX_NAMES = {"hessian": "Hessian", "ggn": "Gauss–Newton matrix", "fisher": "Fisher matrix"}
CURVE_POINTS = 300
NODE_WIDTH_SHARE = 0.01  # width of a node, as a share of the range of all nodes
MIN_DENSITY_SHARE = 1e-8  # share of the maximum below which the curve is not drawn


def data(report: Report) -> Picture:
    """Return the density from Lanczos quadrature, with lines at λmax and at the stability limit 2/lr.

    Each node of the quadrature is drawn as a Gaussian.
    """
    options = report.meta.get("conditioning", {})
    curvature = options.get("curvature", {})
    matrix = printable(curvature.get("matrix", "curvature"), 20)
    title, axes = f"Density of the {MATRIX_NAMES.get(matrix, matrix)}", (Axis("density", "log"),)
    nodes, weights = (np.atleast_2d(np.asarray(curvature.get(name, []), float)) for name in ("nodes", "weights"))
    if nodes.size < 2 or nodes.shape != weights.shape:
        empty = "the curvature was not measured (pass curvature_of= to layerscope.conditioning)"
        return Picture("curvature_density", title, "", Axis("eigenvalue"), axes, empty=empty)
    weighted = nodes[weights > 0]
    width = NODE_WIDTH_SHARE * float(np.ptp(weighted)) or NODE_WIDTH_SHARE
    positions = np.linspace(float(weighted.min()) - 4 * width, float(weighted.max()) + 4 * width, CURVE_POINTS)
    curve = density(nodes, weights, positions, width)
    curve[curve < MIN_DENSITY_SHARE * curve.max()] = np.nan
    top = float(curvature["values"][0])
    marks: list[Mark] = [
        Line(
            tone="series0",
            label=f"density ({plural(len(nodes), 'probe vector')}, {nodes.shape[1]} Lanczos steps each)",
            x=to_floats(positions),
            y=to_floats(curve),
        ),
        Rule(tone="over", label=f"λmax = {top:.3g}", at=top),
    ]
    if "lr" in options and 2 / float(options["lr"]) < 2 * float(positions[-1]):
        marks.append(
            Rule(
                tone="bad",
                label="2/lr, stability limit of the learning rate",
                at=2 / float(options["lr"]),
                dashed=False,
            )
        )
    about = f"{curvature['params']:,} parameters, trace {curvature['trace']:.3g} ± {curvature['trace_error'] or 0:.1g}"
    return Picture("curvature_density", title, about, Axis("eigenvalue"), axes, tuple(marks))
