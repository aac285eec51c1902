"""The summaries of several models beside each other: one table, then a sentence about each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from layerscope import registry
from layerscope.records.report import Report
from layerscope.text import distinct_paths, format_number, plural, printable
from layerscope.views import aligned_columns, headline
from layerscope.views.aligned_columns import Cell, Step
from layerscope.views.short_names import short_names

MEDIANS = ("alpha", "alpha_weighted", "log_norm", "log_spectral_norm", "stable_rank", "entropy")
NARROW_MEDIANS = ("alpha", "log_spectral_norm", "stable_rank")  # where all have no space
MIN_LABEL_CHARS, MAX_NAME_CHARS = 20, 28
MAX_DESCRIBED_MODELS = 8  # models up to which a sentence describes each


def print_overview(reports: Sequence[Report], console: Console) -> None:
    """The side-by-side table, then what was concluded of each model."""
    names = distinct_paths([str(report.meta["target"]) for report in reports])
    print_side_by_side(reports, console, names)
    if len(reports) > MAX_DESCRIBED_MODELS:
        return
    console.print()
    for name, report in zip(names, reports, strict=True):
        console.print(Text.assemble((printable(name), "bold"), f": {headline.summary_sentences(report)[0]}"))


def print_side_by_side(reports: Sequence[Report], console: Console, names: Sequence[str] = ()) -> None:
    """The summaries of several models: a column each, or a row each where there are too many columns."""
    names = names or distinct_paths([str(report.meta["target"]) for report in reports])
    heads, *rows = median_rows(reports, names)
    cells = [[Cell(text) for text in row] for row in rows]
    label_width = max(len(row[0]) for row in rows)
    longest = max(MAX_NAME_CHARS, (console.width - label_width) // len(reports) - 1)
    shown = [heads[0], *short_names(heads[1:], longest).names]
    console.print(Text(f"{plural(len(reports), 'model')} side by side (medians over layers)", style="bold"))
    if aligned_columns.is_too_wide(shown, cells, console.width):
        _print_row_per_model(reports, console, names)
    else:
        aligned_columns.print_rows(console, shown, cells, {0})
    if len({report.summary["analysed"] for report in reports}) > 1:
        console.print(Text("The models differ in their number of layers: compare shapes (alpha), not scales (norms)."))


def _print_row_per_model(reports: Sequence[Report], console: Console, names: Sequence[str]) -> None:
    """A row per model: its medians, and its findings as codes with the number of layers."""
    for metrics in (MEDIANS, NARROW_MEDIANS):
        heads, rows = _model_rows(reports, names, metrics)
        captions = aligned_columns.fit_columns(heads, rows, console.width, [Step(0, short_names, MIN_LABEL_CHARS)])
        if not aligned_columns.is_too_wide(heads, rows, console.width):
            break
    aligned_columns.print_rows(console, heads, rows, {0, len(heads) - 1})
    for caption in captions:
        console.print(Text(caption, style="dim"))


def _model_rows(
    reports: Sequence[Report], names: Sequence[str], metrics: Sequence[str]
) -> tuple[list[str], list[list[Cell]]]:
    plugins = registry.plugins("metrics")
    heads = ["model", *(str(plugins[name].meta["label"]) for name in metrics), "layers", "findings"]
    rows = []
    for name, report in zip(names, reports, strict=True):
        summary = report.summary
        medians = [(metric, summary["metrics"].get(metric, {}).get("median")) for metric in metrics]
        values = [format_number(value, plugins[metric].meta["fmt"]) for metric, value in medians]
        counts = " ".join(f"{printable(code, 20)}×{count}" for code, count in sorted(summary["findings"].items()))
        rows.append([Cell(text) for text in (printable(name), *values, str(summary["averaged"]), counts)])
    return heads, rows


def median_rows(reports: Sequence[Report], names: Sequence[str]) -> list[list[str]]:
    """The summaries of several models: a row of heads, then medians, layers averaged and counts of findings."""
    summaries = [report.summary for report in reports]
    plugins, rules = registry.plugins("metrics"), registry.plugins("rules")
    rows = [["median over layers", *(printable(name) for name in names)]]
    for name in MEDIANS:
        values = [s["metrics"].get(name, {}).get("median") for s in summaries]
        rows.append([name, *(format_number(value, plugins[name].meta["fmt"]) for value in values)])
    rows.append(["layers averaged", *(str(s["averaged"]) for s in summaries)])
    for code in sorted({code for s in summaries for code in s["findings"]}):
        title = rules[code].meta["title"] if code in rules else ""
        rows.append([f"{printable(code, 20)} {title}", *(str(s["findings"].get(code, 0)) for s in summaries)])
    return rows
