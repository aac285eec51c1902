"""Text versions of landscape results: lines, planes, basins, distances and sharpness."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from layerscope.records.comparison import letters
from layerscope.records.landscape.basins import format_basins
from layerscope.text import elide, plural, printable
from layerscope.views import aligned_columns
from layerscope.views.aligned_columns import Cell
from layerscope.views.csv_cells import protect
from layerscope.views.short_names import short_names

if TYPE_CHECKING:
    from layerscope.records.findings import Finding
    from layerscope.records.landscape.basins import Basins, Sharpness
    from layerscope.records.landscape.distances import Distances
    from layerscope.records.landscape.lines import Line
    from layerscope.records.landscape.planes import Plane

WIDTH = 100
MAX_MATRIX_MODELS = 26  # largest number of models in a printed matrix
MAX_NAME_CHARS = 24  # longer model names are shortened
COUNT_WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")
OPTION_FORMATS = {
    "examples": "{} examples",
    "loss": "loss: {}",
    "bn": "batch norm: {}",
    "calibration": "calibration: {}",
}


def distances_text(record: Distances, kind: str = "l2", width: int = WIDTH) -> str:
    """Format distances as one matrix per kind, followed by an explanation and the findings."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    count = (
        f"{plural(len(record.tensors), 'tensor')}, {record.params:,} entries (select={printable(record.select, 40)})"
    )
    console.print(f"{plural(len(record.names), 'model')}, {count}", markup=False, highlight=False)
    shown = [kind] if kind != "l2" else ["l2", "symmetric", *(["centred"] if record.origin else []), *record.without]
    for measure in shown:
        print_matrix(console, record.names, record.matrix(measure), measure)
    console.print()
    if record.origin:
        far = ", ".join(
            f"{elide(printable(name), MAX_NAME_CHARS)} {x:.4g}"
            for name, x in list(record.from_origin.items())[:MAX_MATRIX_MODELS]
        )
        origin = elide(printable(record.origin), MAX_NAME_CHARS)
        console.print(f"l2 distance from {origin}: {far}", markup=False, highlight=False)
    for line in [*record.reading(), *_finding_lines(record.findings)]:
        console.print(line, markup=False, highlight=False)
    if record.unlike:
        names = ", ".join(printable(name, 60) for name in record.unlike[:4])
        more = ", …" if len(record.unlike) > 4 else ""
        console.print(
            f"Skipped, missing or of another shape in some model: {names}{more}", markup=False, highlight=False
        )
    return _read_console(console)


def print_matrix(console: Console, names: Sequence[str], values: Any, head: str, fmt: str = ".4g") -> None:
    """Print a square matrix, limited to the first ``MAX_MATRIX_MODELS`` models.

    Where full names take too much width, the columns are headed by letters that the rows explain.
    """
    shown = short_names([printable(name) for name in names[:MAX_MATRIX_MODELS]], MAX_NAME_CHARS).names
    numbers = [[_format_number(float(values[i][j]), fmt) for j in range(len(shown))] for i in range(len(shown))]
    rows = [[Cell(label), *map(Cell, row)] for label, row in zip(shown, numbers, strict=True)]
    heads = [head, *shown]
    if aligned_columns.is_too_wide(heads, rows, console.width):
        marks = letters(len(shown))
        heads = [head, *marks]
        rows = [[Cell(f"{mark} {row[0].text}"), *row[1:]] for mark, row in zip(marks, rows, strict=True)]
    console.print()
    aligned_columns.print_rows(console, heads, rows, {0})
    if len(names) > MAX_MATRIX_MODELS:
        console.print(f"… and {len(names) - MAX_MATRIX_MODELS} more models; JSON output has all of them.", markup=False)


def matrix_csv_lines(names: Sequence[str], values: Any) -> list[str]:
    """Format a matrix as lines of CSV; a missing value is an empty field."""
    import csv as writer

    buffer = io.StringIO()
    rows = writer.writer(buffer, lineterminator="\n")
    rows.writerow(["model", *(protect(printable(name)) for name in names)])
    for name, row in zip(names, values, strict=True):
        rows.writerow([protect(printable(name)), *(repr(float(x)) if math.isfinite(float(x)) else "" for x in row)])
    return buffer.getvalue().rstrip("\n").split("\n")


def _format_number(value: float, fmt: str) -> str:
    return format(value, fmt) if math.isfinite(value) else "–"


def _read_console(console: Console) -> str:
    file: Any = console.file
    return str(file.getvalue()).rstrip()


def line_text(record: Line) -> str:
    """Format a line as text: its loss barrier, and the range of each metric."""
    barrier = record.barrier("chord")
    error = "" if barrier.error is None else f" ± {barrier.error:.2g}"
    lines = [
        f"{record.names[0]} → {record.names[1]}, {plural(len(record.t), 'point')}, {_format_options(record.about)}"
    ]
    least = "at least " if record.holes else ""
    where = (
        f"{least}{barrier.value:.4g}{error} at t = {barrier.at:.2f}, above the chord between the ends"
        if math.isfinite(barrier.value)
        else "not measured"
    )
    lines.append(f"  loss barrier {where}")
    for name, values in record.metrics.items():
        ends = ", ".join(
            _format_number(float(values[record.t == x][0]), ".4g") for x in (0.0, 1.0) if (record.t == x).any()
        )
        low, high = (_format_number(float(f), ".4g") for f in _finite_range(values))
        lines.append(f"  {printable(name, 40)}: {ends or '–'} at the ends; {low} to {high} along the line")
    return "\n".join([*lines, *_hole_lines(record.holes, record.clamped)])


def plane_text(record: Plane) -> str:
    """Format a plane as text: its size, its best values, and its angle or how well it represents the run."""
    size = f"{len(record.u)} × {len(record.v)} points"
    lines = [f"plane through {', '.join(record.names)}: {size}, {_format_options(record.about)}"]
    for name in record.metrics:
        value, u, v = record.best(name)
        lines.append(f"  best {printable(name, 40)} {value:.4g} at u = {u:.2f}, v = {v:.2f}")
    if record.track is not None:
        shares, walk = (", ".join(f"{share:.1%}" for share in row) for row in (record.track.shares, record.track.walk))
        lines.append(f"  its two directions explain {shares} of the run's variance (a random walk: {walk})")
        lines.append(f"  the loss of a checkpoint differs from that of its projection by up to {record.track.gap:.3g}")
    else:
        lines.append(f"  angle between u and v: {_format_number(record.angle, '.1f')}°")
    return "\n".join([*lines, *_hole_lines(record.holes, record.clamped), *_finding_lines(record.findings)])


def basins_text(record: Basins, width: int = WIDTH) -> str:
    """Format a basin analysis as text: loss barriers, basins, findings and advice."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    summary = f"{plural(len(record.names), 'model')}, {_format_options(record.about)}, tolerance {record.tolerance:.3g}"
    console.print(summary, markup=False, highlight=False)
    for way, values in record.barriers.items():
        print_matrix(console, record.names, values, f"barrier: {way}", ".3g")
    console.print()
    console.print(basins_headline(record.clusters), markup=False, highlight=False)
    if record.aligned != record.clusters:
        aligned = basins_headline(record.aligned)
        console.print(f"After aligning hidden units: {aligned[0].lower()}{aligned[1:]}", markup=False, highlight=False)
    if record.functions:
        for name, fmt in (("disagreement", ".3f"), ("cka", ".3f")):
            print_matrix(console, record.names, record.functions[name], name, fmt)
    if record.sharpness:
        console.print(sharpness_table(record.sharpness))
    console.print()
    for line in [*_finding_lines(record.findings), *record.advice()]:
        console.print(printable(line, 400), markup=False, highlight=False)
    return _read_console(console)


def sharpness_table(by_model: Mapping[str, Sharpness]) -> Table:
    """Build a table of sharpness measures, one row per model."""
    table = Table(box=None, pad_edge=False)
    for head in ("sharpness", "‖g‖", "average", "SAM", "adaptive", "worst %", "width"):
        table.add_column(head, justify="left" if head == "sharpness" else "right")
    for name, record in by_model.items():
        values = record.gradient, record.average, record.sam, record.adaptive, record.worst, record.width
        note = " (not a minimum)" if record.findings else ""
        table.add_row(
            elide(printable(name), MAX_NAME_CHARS) + note, *(_format_number(value, ".3g") for value in values)
        )
    return table


def _finding_lines(findings: Sequence[Finding]) -> list[str]:
    return [f"{finding.code} {finding.title}: {printable(finding.message, 400)}" for finding in findings]


def basins_headline(basins: Sequence[Sequence[str]]) -> str:
    """Format groups of models as a headline: ``Two basins: {a, b} and {c}.``."""
    count = COUNT_WORDS[len(basins)] if len(basins) < len(COUNT_WORDS) else str(len(basins))
    shown = format_basins([[printable(name, MAX_NAME_CHARS) for name in basin] for basin in basins])
    return f"{count} basin{'' if len(basins) == 1 else 's'}: {shown}."


def _format_options(about: Mapping[str, Any]) -> str:
    parts = []
    for key, value in about.items():
        template = OPTION_FORMATS.get(str(key), f"{printable(str(key), 40)}: {{}}")
        parts.append(template.replace("{}", printable(str(value), 80)))
    return ", ".join(parts)


def _hole_lines(holes: Mapping[str, int], clamped: int) -> list[str]:
    lines = [f"  {plural(count, 'point')} without a value: {printable(why, 120)}" for why, count in holes.items()]
    return lines + ([f"  {plural(clamped, 'negative batch-norm variance')} set to zero"] if clamped else [])


def _finite_range(values: Any) -> tuple[float, float]:
    finite = [float(x) for x in values if math.isfinite(x)]
    return (min(finite), max(finite)) if finite else (math.nan, math.nan)
