"""Shape against scale: α of each layer against the logarithm of its largest eigenvalue."""

from __future__ import annotations

from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.text import plural
from layerscope.views.plots import layer_axis
from layerscope.views.plots.marks import Axis, Mark, Picture, Rule
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "model", "model"


def data(report: Report) -> Picture:
    """Return one point per fitted layer; shape and scale are shown separately, not as a product such as α-hat."""
    fitted = [
        p for p in layer_axis.place_analyzed_layers(report) if {"alpha", "log_spectral_norm"} <= p.layer.metrics.keys()
    ]
    limits = report.settings.limits
    marks: list[Mark] = [
        Rule(tone="over", at=limits.over_trained, along="x", label=f"α = {limits.over_trained:g}"),
        Rule(tone="under", at=limits.under_trained, along="x", label=f"α = {limits.under_trained:g}"),
    ]
    marks += layer_axis.verdict_points(report, fitted, lambda p: _coordinates(p.layer), note=_point_note)
    alphas = [_coordinates(p.layer)[1] for p in fitted]
    return Picture(
        "shape_scale",
        "Shape (α) against scale (λmax)",
        plural(len(fitted), "layer"),
        Axis("log₁₀ of the largest 1/λ" if report.settings.inverse else "log₁₀ λmax, scale (λmax in W²)"),
        (Axis("α, shape", "log" if max(alphas, default=1.0) > 4 * limits.under_trained else "linear"),),
        tuple(marks) if fitted else (),
        empty="" if fitted else layer_axis.why_empty(report, "alpha"),
    )


def _coordinates(layer: LayerReport) -> tuple[float, float]:
    return float(layer.metrics["log_spectral_norm"]), float(layer.metrics["alpha"])


def _point_note(layer: LayerReport) -> str:
    scale, shape = _coordinates(layer)
    return f"log₁₀ λmax = {scale:.2f}, α = {shape:.2f}"
