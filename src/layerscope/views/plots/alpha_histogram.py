"""Histograms of α for several models, in one plot."""

from __future__ import annotations

from statistics import median

from layerscope.records.comparison import Comparison
from layerscope.report_comparison import alphas_of, histogram
from layerscope.text import elide, plural, printable
from layerscope.views.plots.marks import Axis, Mark, Picture, Rule, Steps, to_floats
from layerscope.views.plots.matplotlib_pen import draw as draw
from layerscope.views.plots.style import outline_pattern, series_tone

SCOPE, SECTION = "models", "model"
MAX_FILLED_HISTOGRAMS = 2  # with more models, filled histograms would hide each other
MAX_NAME_CHARS = 36  # characters of a model's name
LAST_BIN_ALPHA = 12.0  # layers with a larger α share the last bin


def data(comparison: Comparison) -> Picture:
    """Return the share of each model's layers per bin of α, without embeddings and layers without α."""
    alphas = [alphas_of(report) for report in comparison.reports]
    shown = [[min(a, LAST_BIN_ALPHA) for a in values] for values in alphas]
    bins = histogram(shown)
    limits = comparison.reports[0].settings.limits
    marks: list[Mark] = []
    for i, (letter, name, values) in enumerate(zip(comparison.letters, comparison.names, alphas, strict=True)):
        if values:
            model_name = (
                elide(printable(name), MAX_NAME_CHARS)
                if len(alphas) == 1
                else f"{letter} {elide(printable(name), MAX_NAME_CHARS)}"
            )
            middle = median(values)
            marks.append(
                Steps(
                    tone=series_tone(i),
                    label=f"{model_name}: {plural(len(values), 'layer')}, median {middle:.2f}",
                    edges=to_floats(bins["edges"]),
                    heights=tuple(count / len(values) for count in bins["counts"][i]),
                    filled=i < MAX_FILLED_HISTOGRAMS,
                    pattern=outline_pattern(i),
                )
            )
    if marks:
        marks.append(Rule(tone="quiet", at=limits.over_trained, label=f"α = {limits.over_trained:g}"))
        marks.append(Rule(tone="quiet", at=limits.under_trained, label=f"α = {limits.under_trained:g}"))
    beyond = sum(a > LAST_BIN_ALPHA for values in alphas for a in values)
    return Picture(
        "alpha_histogram",
        "Distribution of α over the layers",
        plural(len(alphas), "model"),
        Axis("α, power-law exponent"),
        (Axis("share of layers", low=0.0),),
        tuple(marks),
        (f"the last bin contains {plural(beyond, 'layer')} with α above {LAST_BIN_ALPHA:g}",) if beyond else (),
        "" if marks else "no model has a layer with α",
    )
