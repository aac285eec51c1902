"""A comparison of models as a terminal table, CSV, JSON and a pandas DataFrame."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from layerscope.errors import MissingExtra
from layerscope.persistence.plain_json import plain
from layerscope.records.comparison import ComparedLayer, Comparison
from layerscope.text import format_alpha, format_number, plural, printable
from layerscope.views import aligned_columns, side_by_side, table
from layerscope.views.aligned_columns import Cell, Step
from layerscope.views.csv_cells import protect
from layerscope.views.short_names import short_names

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
METRICS = ("alpha", "log_spectral_norm", "alpha_weighted", "stable_rank", "entropy")
DISTANCES = ("relative", "cosine", "cka", "overlap", "angle", "frobenius")
DISTANCE_COLUMNS = (
    ("relative", "rel.dist", ".3f"),
    ("cosine", "cosine", ".3f"),
    ("cka", "CKA", ".3f"),
    ("overlap", "overlap", ".2f"),
)
BARS = " ▁▂▃▄▅▆▇█"
MIN_NAME_CHARS = 20
MAX_NAMED_UNMATCHED = 8  # unmatched layers that are named


SORTS = ("model", "alpha", "distance")  # orders of the layers


def print_comparison(
    comparison: Comparison, console: Console, *, verbose: bool = False, sort: str = "model", top: int | None = None
) -> None:
    """Print the summaries side by side, the layers, a histogram of α per model, and what the comparison shows.

    :param sort: order of the layers: as in the model, by the change of α, or by their distance from the first model.
    :param top: number of layers that are listed; None lists all.
    """
    for letter, name in zip(comparison.letters, comparison.names, strict=True):
        console.print(Text.assemble((letter, "bold"), f"  {printable(name, console.width - 4)}"))
    console.print()
    side_by_side.print_side_by_side(comparison.reports, console, names=comparison.letters)
    if comparison.layers:
        console.print()
        _print_layers(comparison, console, sorted_layers(comparison, sort), top)
    _print_alpha_histogram(comparison, console)
    console.print(Text("\nWhat this shows", style="bold"))
    for line in comparison.reading:
        console.print(Text(f"  {printable(line, 400)}"))
    for line in comparison.warnings:
        console.print(Text(f"  ! {printable(line, 400)}", style=table.STYLES["warn"]))
    for letter, findings in zip(
        comparison.letters, comparison.regressions or ((),) * len(comparison.names), strict=True
    ):
        for finding in findings:
            where = f"  {finding.code} {finding.title} in {letter}, {printable(finding.layer, 60)}: "
            text = Text(where, style=table.STYLES[finding.severity])
            console.print(text.append(printable(finding.message, 400), style=""))
    for name, missing in zip(comparison.letters, comparison.unmatched, strict=True):
        if missing:
            names_shown = missing if verbose else missing[:MAX_NAMED_UNMATCHED]
            listed = ", ".join(printable(x, 60) for x in names_shown) + (
                " …" if len(missing) > len(names_shown) else ""
            )
            console.print(Text(f"{plural(len(missing), 'layer')} analyzed only in {name}: {listed}", style="dim"))


def alpha_cells(layer: ComparedLayer) -> list[str]:
    """α of a layer in each model."""
    doubtful = layer.doubtful or (False,) * len(layer.metrics)
    return [format_alpha(m.get("alpha"), doubt) for m, doubt in zip(layer.metrics, doubtful, strict=True)]


def choose_distance_columns(comparison: Comparison) -> Sequence[tuple[str, str, str]]:
    """The distances to show: all of them for two models, the relative one for more, none where none was measured."""
    if not any(any(layer.distances[1:]) for layer in comparison.layers):
        return ()
    return DISTANCE_COLUMNS if len(comparison.names) == 2 else DISTANCE_COLUMNS[:1]


def distance_heads(comparison: Comparison) -> list[str]:
    """A heading for each distance of each model from the first."""
    return [f"{head} {x}" for x in comparison.letters[1:] for _, head, _ in choose_distance_columns(comparison)]


def distance_cells(columns: Sequence[tuple[str, str, str]], layer: ComparedLayer) -> list[str]:
    """The distances of one layer, in the order of the headings of :func:`choose_distance_columns`."""
    return [format_number(distances.get(name), fmt) for distances in layer.distances[1:] for name, _, fmt in columns]


def comparison_text(comparison: Comparison) -> str:
    """Return what ``show`` prints, without colors."""
    return table.capture_text(lambda console: print_comparison(comparison, console))


def rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """One dict per matched layer: ``alpha_1``, ``alpha_2``, …, ``relative_2``, …; None where absent."""
    for layer in comparison.layers:
        row: dict[str, Any] = {"name": layer.name}
        for metric in METRICS:
            row |= {f"{metric}_{i}": values.get(metric) for i, values in enumerate(layer.metrics, 1)}
        for distance in DISTANCES:
            row |= {f"{distance}_{i}": distances.get(distance) for i, distances in enumerate(layer.distances[1:], 2)}
        yield row


def frame(comparison: Comparison) -> pd.DataFrame:
    """A pandas DataFrame of :func:`rows`."""
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("a data frame", "pandas") from None
    return pd.DataFrame(list(rows(comparison)))


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON types, with the summary of each report but not its layers."""
    return {
        "schema": SCHEMA,
        "record": "comparison",
        "models": [
            {"name": name, "target": report.meta["target"], "format": report.meta["format"], "summary": report.summary}
            for name, report in zip(comparison.names, comparison.reports, strict=True)
        ],
        "layers": [
            {"name": x.name, "metrics": [dict(m) for m in x.metrics], "distances": [dict(d) for d in x.distances]}
            for x in comparison.layers
        ],
        "unmatched": [list(names) for names in comparison.unmatched],
        "histogram": dict(comparison.histogram),
        "apart": {what: [list(row) for row in matrix] for what, matrix in comparison.apart.items()},
        "reading": list(comparison.reading),
        "warnings": list(comparison.warnings),
        "regressions": [[plain(finding) for finding in findings] for findings in comparison.regressions],
    }


def to_json(comparison: Comparison) -> str:
    """The comparison as JSON."""
    return json.dumps(to_dict(comparison), indent=2, allow_nan=False) + "\n"


def to_csv(comparison: Comparison) -> str:
    """One line per matched layer."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    records = list(rows(comparison))
    heads = list(records[0]) if records else ["name"]
    writer.writerow(map(protect, heads))
    for row in records:
        cells = (protect(printable(row[head], 32_000)) if isinstance(row[head], str) else row[head] for head in heads)
        writer.writerow(cells)
    return buffer.getvalue()


def sorted_layers(comparison: Comparison, sort: str) -> list[ComparedLayer]:
    """Return the layers in an order of :data:`SORTS`, the largest change first."""
    layers = list(comparison.layers)
    return layers if sort == "model" else sorted(layers, key=lambda layer: -_change(layer, sort))


def _change(layer: ComparedLayer, sort: str) -> float:
    """Return the largest change of a layer since the first model; −1 if it is not known."""
    if sort == "distance":
        return max((float(d["relative"]) for d in layer.distances[1:] if "relative" in d), default=-1.0)
    first = layer.metrics[0].get("alpha")
    others = [m["alpha"] for m in layer.metrics[1:] if "alpha" in m]
    return -1.0 if first is None else max((abs(float(value) - float(first)) for value in others), default=-1.0)


def _print_layers(
    comparison: Comparison, console: Console, layers: Sequence[ComparedLayer], top: int | None
) -> None:  # fmt: skip
    several = len(comparison.names) > 2
    shown = DISTANCE_COLUMNS[:1] if several else DISTANCE_COLUMNS
    labels = comparison.letters
    heads = ["layer", *(f"α {label}" for label in labels)]
    heads += [f"{head} {label}" if several else head for label in labels[1:] for _, head, _ in shown]
    cells = []
    for layer in layers[:top]:
        row = [Cell(printable(layer.name)), *map(Cell, alpha_cells(layer))]
        row += [Cell(format_number(d.get(name), fmt)) for d in layer.distances[1:] for name, _, fmt in shown]
        cells.append(row)
    if not any(any(layer.distances[1:]) for layer in comparison.layers):
        heads, cells = heads[: len(labels) + 1], [row[: len(labels) + 1] for row in cells]
    captions = aligned_columns.fit_columns(heads, cells, console.width, [Step(0, short_names, MIN_NAME_CHARS)])
    aligned_columns.print_rows(console, heads, cells, {0})
    for caption in captions:
        console.print(Text(caption, style="dim"))
    if top is not None and len(layers) > top:
        console.print(Text(f"{plural(len(layers) - top, 'more layer')} (--top lists more).", style="dim"))


def _print_alpha_histogram(comparison: Comparison, console: Console) -> None:
    edges: Sequence[float] = comparison.histogram["edges"]
    if not edges:
        return
    largest_count = max(max(counts) for counts in comparison.histogram["counts"])
    width = max(len(letter) for letter in comparison.letters)
    span = f"{edges[0]:.1f}".ljust(len(edges) - 4) + f"{edges[-1]:.1f}"
    console.print(Text(f"\n{'α'.rjust(width)}  {span}", style="dim"))
    for letter, counts in zip(comparison.letters, comparison.histogram["counts"], strict=True):
        bars = "".join(BARS[-(-count * (len(BARS) - 1) // largest_count)] for count in counts)
        console.print(Text(f"{letter.rjust(width)}  {bars}"))
