"""Compare the Fisher block of one layer with the full Fisher matrix over the steps of a run."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.records.history import History
from layerscope.text import printable
from layerscope.views.plots import run_lines
from layerscope.views.plots.marks import Axis, Mark, Picture
from layerscope.views.plots.matplotlib_pen import draw as draw

SCOPE, SECTION = "run layer", "run"
KAPPA_SHARE = 20  # percent; larger shares need more examples
PANELS = (Axis("λmax", "log"), Axis(f"κ{KAPPA_SHARE}", "log"))
LINES = (("Fisher block of the layer", "_exact", "series0", False), ("K-FAC product Sx ⊗ Sd", "_fim", "series2", True))


def data(runs: Sequence[History], layer: str) -> Picture:
    """Return λmax and κ₂₀ of the full Fisher matrix, the layer's block and the K-FAC product, for the first run."""
    run = runs[0]
    marks: list[Mark] = []
    for panel, metric in enumerate(("lambda_max", f"kappa_{KAPPA_SHARE}")):
        label = "full Fisher matrix" if panel == 0 else ""
        marks += run_lines.run_line(run.of_model(metric), label, tone="series1", panel=panel)
        for name, suffix, tone, dashed in LINES:
            series = run.series(f"{metric}{suffix}", layer)
            marks += run_lines.run_line(series, name if panel == 0 else "", tone=tone, panel=panel, dashed=dashed)
    agreement = run.trend_agreement().get(layer)
    about = f"{run_lines.run_labels(runs)[0][0]}, " * (len(runs) > 1) + run_lines.describe_runs(runs[:1])
    about += "" if agreement is None else f", rank correlation of λmax {agreement:.2f}"
    empty = "" if run.of_model("lambda_max")[0] else "the full Fisher matrix was not measured (exact=True)"
    title = "Full Fisher matrix and block of one layer"
    return Picture(
        "full_and_sub", title, about, run_lines.STEP_AXIS, PANELS, tuple(marks), empty=empty, of=printable(layer, 80)
    )
