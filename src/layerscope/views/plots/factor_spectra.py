"""The spectra of what comes into a layer and what comes back, and of its block where that was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerscope.numerics import kronecker
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import printable
from layerscope.views.plots.marks import Axis, Line, Mark, Picture, Rule, numbers
from layerscope.views.plots.matplotlib_pen import draw as draw

if TYPE_CHECKING:
    from layerscope.array_types import Floats

SCOPE, SECTION = "layer", "learning"
SHARES = (20, 50, 80)
POINTS = 160  # of a curve
X = Axis("share of the eigenvalues, % (largest first)", low=0.0, high=100.0)


def data(report: Report, layer: LayerReport) -> Picture:
    """Eigenvalues by their rank, as shares of all: κ_p is what the curve falls by from its start to p %."""
    facts = {name: value for part in layer.parts.values() for name, value in part.facts.items()}
    spectra = {role: part.spectrum for role, part in layer.parts.items() if part.spectrum is not None}
    panels: list[Axis] = []
    marks: list[Mark] = []
    known = {role: spectra[role] for role in ("input", "gradient") if role in spectra and spectra[role].complete}
    for number, (role, label) in enumerate((("input", "S_x"), ("gradient", "S_d"))):
        if role in known:
            evals = kronecker.cleaned(known[role].evals, facts.get(f"{role}_eps", kronecker.EPS))
            marks += _curve(evals[::-1], len(evals), label, tone=f"series{number}", panel=len(panels))
            panels.append(Axis(f"λ of {label}", "log"))
    if len(known) == 2 and "groups_trace" not in facts:
        a, b = (kronecker.cleaned(known[role].evals, facts.get(f"{role}_eps", kronecker.EPS)) for role in known)
        shares = np.linspace(0, 100, POINTS)
        found = np.array([kronecker.product_value(a, b, kronecker.place(s, len(a) * len(b))) for s in shares])
        marks += _line(shares, found, "S_x ⊗ S_d", tone="series2", panel=len(panels), dashed="fisher" in spectra)
        if "fisher" in spectra:
            eps = max(facts.get("input_eps", kronecker.EPS), facts.get("gradient_eps", kronecker.EPS))
            block = kronecker.cleaned(spectra["fisher"].evals, eps)
            marks += _curve(block[::-1], spectra["fisher"].m, "the block itself", tone="spike", panel=len(panels))
        panels.append(Axis("λ of the block", "log"))
    marks += [Rule(tone="quiet", at=float(share), panel=i) for share in SHARES for i in range(len(panels))]
    empty = "" if panels else "no data ran through the layer (layerscope.conditioning), or it is too large"
    about = f"{facts.get('input_rows', 0):,.0f} rows in, {facts.get('gradient_rows', 0):,.0f} back"
    return Picture(
        "factor_spectra", "What comes in and back", about, X, tuple(panels) or (Axis("λ", "log"),),
        tuple(marks) if panels else (), empty=empty, of=printable(layer.name, 80),
    )  # fmt: skip


def _curve(descending: Floats, count: int, label: str, *, tone: str, panel: int) -> list[Mark]:
    """Eigenvalues above zero at the share of all that they and the larger ones are."""
    alive = descending[descending > 0]
    if not len(alive):
        return []
    at = np.unique(np.linspace(0, len(alive) - 1, POINTS).round().astype(int))
    return _line(100 * (at + 1.0) / count, alive[at], label, tone=tone, panel=panel)


def _line(shares: Floats, values: Floats, label: str, *, tone: str, panel: int, dashed: bool = False) -> list[Mark]:
    kept = values > 0
    if not kept.any():
        return []
    return [Line(tone=tone, label=label, panel=panel, x=numbers(shares[kept]), y=numbers(values[kept]), dashed=dashed)]
