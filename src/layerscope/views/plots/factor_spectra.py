"""Spectra of a layer's inputs and output gradients, and of its Fisher block if that was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerscope.numerics import kronecker
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import printable
from layerscope.views.plots.marks import Axis, Line, Mark, Picture, Rule, to_floats
from layerscope.views.plots.matplotlib_pen import draw as draw

if TYPE_CHECKING:
    from layerscope.array_types import Floats

SCOPE, SECTION = "layer", "learning"
SHARES = (20, 50, 80)
CURVE_POINTS = 160  # points per curve
SHARE_AXIS = Axis("share of eigenvalues, % (largest first)", low=0.0, high=100.0)


def data(report: Report, layer: LayerReport) -> Picture:
    """Return eigenvalues by rank, as a share of all; κ_p is the ratio of the curve at its start to the curve at p %."""
    facts = {name: value for part in layer.parts.values() for name, value in part.facts.items()}
    spectra = {role: part.spectrum for role, part in layer.parts.items() if part.spectrum is not None}
    panels: list[Axis] = []
    marks: list[Mark] = []
    complete = {role: spectra[role] for role in ("input", "gradient") if role in spectra and spectra[role].complete}
    for number, (role, label) in enumerate((("input", "Sx, inputs"), ("gradient", "Sd, output gradients"))):
        if role in complete:
            evals = kronecker.zero_negligible(complete[role].evals, facts.get(f"{role}_eps", kronecker.EPS))
            marks += _rank_curve(evals[::-1], len(evals), label, tone=f"series{number}", panel=len(panels))
            panels.append(Axis(f"λ of {label}", "log"))
    if len(complete) == 2 and "groups_trace" not in facts:
        a, b = (
            kronecker.zero_negligible(complete[role].evals, facts.get(f"{role}_eps", kronecker.EPS))
            for role in complete
        )
        shares = np.linspace(0, 100, CURVE_POINTS)
        product = np.array(
            [kronecker.nth_largest_product(a, b, kronecker.percentile_rank(s, len(a) * len(b))) for s in shares]
        )
        marks += _positive_line(
            shares, product, "K-FAC product Sx ⊗ Sd", tone="series2", panel=len(panels), dashed="fisher" in spectra
        )
        if "fisher" in spectra:
            eps = max(facts.get("input_eps", kronecker.EPS), facts.get("gradient_eps", kronecker.EPS))
            block = kronecker.zero_negligible(spectra["fisher"].evals, eps)
            marks += _rank_curve(
                block[::-1], spectra["fisher"].m, "exact Fisher block", tone="spike", panel=len(panels)
            )
        panels.append(Axis("λ of the Fisher block", "log"))
    marks += [Rule(tone="quiet", at=float(share), panel=i) for share in SHARES for i in range(len(panels))]
    empty = (
        ""
        if panels
        else "not measured: the model was not run on data (layerscope.conditioning), or the layer is too large"
    )
    about = f"{facts.get('input_rows', 0):,.0f} input rows, {facts.get('gradient_rows', 0):,.0f} gradient rows"
    return Picture(
        "factor_spectra", "Spectra of layer inputs and output gradients", about, SHARE_AXIS,
        tuple(panels) or (Axis("λ", "log"),), tuple(marks) if panels else (), empty=empty, of=printable(layer.name, 80),
    )  # fmt: skip


def _rank_curve(descending: Floats, count: int, label: str, *, tone: str, panel: int) -> list[Mark]:
    """Return the positive eigenvalues against the share of eigenvalues that are at least as large."""
    positive = descending[descending > 0]
    if not len(positive):
        return []
    ranks = np.unique(np.linspace(0, len(positive) - 1, CURVE_POINTS).round().astype(int))
    return _positive_line(100 * (ranks + 1.0) / count, positive[ranks], label, tone=tone, panel=panel)


def _positive_line(
    shares: Floats, values: Floats, label: str, *, tone: str, panel: int, dashed: bool = False
) -> list[Mark]:
    positive = values > 0
    if not positive.any():
        return []
    return [
        Line(
            tone=tone,
            label=label,
            panel=panel,
            x=to_floats(shares[positive]),
            y=to_floats(values[positive]),
            dashed=dashed,
        )
    ]
