"""Records of the landscape as text."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from layerscope.text import elide, plural, printable

if TYPE_CHECKING:
    from layerscope.records.findings import Finding
    from layerscope.records.landscape.basins import Basins, Sharpness
    from layerscope.records.landscape.distances import Distances
    from layerscope.records.landscape.lines import Line
    from layerscope.records.landscape.planes import Plane

WIDTH = 100
MAX_MATRIX_MODELS = 12  # models of a printed matrix
MAX_NAME_CHARS = 24  # characters of a name


def distances_text(record: Distances, kind: str = "l2", width: int = WIDTH) -> str:
    """Two matrices, the distance and how related the models are, and what they say."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    count = f"{plural(len(record.tensors), 'tensor')}, {record.params:,} entries ({printable(record.select, 40)})"
    console.print(f"{plural(len(record.names), 'model')}, {count}", markup=False, highlight=False)
    shown = [kind] if kind != "l2" else ["l2", "symmetric", *(["centred"] if record.origin else []), *record.without]
    for measure in shown:
        console.print(matrix_table(record.names, record.matrix(measure), measure))
    if record.origin:
        far = ", ".join(
            f"{elide(printable(name), MAX_NAME_CHARS)} {x:.4g}"
            for name, x in list(record.from_origin.items())[:MAX_MATRIX_MODELS]
        )
        console.print(f"From {elide(printable(record.origin), MAX_NAME_CHARS)}: {far}", markup=False, highlight=False)
    for line in [*record.reading(), *_finding_lines(record.findings)]:
        console.print(line, markup=False, highlight=False)
    if record.unlike:
        names = ", ".join(printable(name, 60) for name in record.unlike[:4])
        more = ", …" if len(record.unlike) > 4 else ""
        console.print(f"Left out, not alike in all: {names}{more}", markup=False, highlight=False)
    return _read_console(console)


def matrix_table(names: Sequence[str], values: Any, head: str, fmt: str = ".4g") -> Table:
    """A square of numbers; of more than a dozen models the first ones."""
    table = Table(box=None, pad_edge=False)
    table.add_column(head)
    shown = names[:MAX_MATRIX_MODELS]
    labels = [elide(printable(name), MAX_NAME_CHARS) for name in shown]
    for label in labels:
        table.add_column(label, justify="right")
    for i, label in enumerate(labels):
        table.add_row(label, *(_format_number(float(values[i][j]), fmt) for j in range(len(shown))))
    if len(names) > MAX_MATRIX_MODELS:
        table.add_row(f"… {len(names) - MAX_MATRIX_MODELS} more")
    return table


def matrix_csv_lines(names: Sequence[str], values: Any) -> list[str]:
    """A matrix as lines of CSV; empty where there is no value."""
    import csv as writer

    buffer = io.StringIO()
    rows = writer.writer(buffer, lineterminator="\n")
    rows.writerow(["model", *names])
    for name, row in zip(names, values, strict=True):
        rows.writerow([name, *(repr(float(x)) if math.isfinite(float(x)) else "" for x in row)])
    return buffer.getvalue().rstrip("\n").split("\n")


def _format_number(value: float, fmt: str) -> str:
    return format(value, fmt) if math.isfinite(value) else "–"


def _read_console(console: Console) -> str:
    file: Any = console.file
    return str(file.getvalue()).rstrip()


def line_text(record: Line) -> str:
    """The barrier in words, and the curve as a few numbers."""
    barrier = record.barrier("chord")
    error = "" if barrier.error is None else f" ± {barrier.error:.2g}"
    lines = [
        f"{record.names[0]} → {record.names[1]}, {plural(len(record.t), 'point')}, {_format_options(record.about)}"
    ]
    least = "at least " if record.holes else ""
    where = (
        f"{least}{barrier.value:.4g}{error} at t = {barrier.at:.2f}" if math.isfinite(barrier.value) else "not known"
    )
    lines.append(f"  loss barrier {where} (chord)")
    for name, values in record.metrics.items():
        ends = ", ".join(
            _format_number(float(values[record.t == x][0]), ".4g") for x in (0.0, 1.0) if (record.t == x).any()
        )
        low, high = (_format_number(float(f), ".4g") for f in _finite_range(values))
        lines.append(f"  {printable(name, 40)}: ends {ends or '–'}; {low} to {high}")
    return "\n".join([*lines, *_hole_lines(record.holes, record.clamped)])


def plane_text(record: Plane) -> str:
    """Size, best values and the true angle."""
    size = f"{len(record.u)} × {len(record.v)} points"
    lines = [f"plane through {', '.join(record.names)}: {size}, {_format_options(record.about)}"]
    for name in record.metrics:
        value, u, v = record.best(name)
        lines.append(f"  best {printable(name, 40)} {value:.4g} at u = {u:.2f}, v = {v:.2f}")
    if record.track is not None:
        shares, walk = (", ".join(f"{share:.1%}" for share in of) for of in (record.track.shares, record.track.walk))
        lines.append(f"  it explains {shares} of the path (a random walk: {walk})")
        lines.append(
            f"  loss of the checkpoints and of their places on the plane differ by up to {record.track.gap:.3g}"
        )
    else:
        lines.append(f"  angle at {printable(record.names[0], 40)}: {_format_number(record.angle, '.1f')}°")
    return "\n".join([*lines, *_hole_lines(record.holes, record.clamped), *_finding_lines(record.findings)])


def basins_text(record: Basins) -> str:
    """The matrices of barriers, the groups, and what follows."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    summary = f"{plural(len(record.names), 'model')}, {_format_options(record.about)}, tolerance {record.tolerance:.3g}"
    console.print(summary, markup=False, highlight=False)
    for way, values in record.barriers.items():
        console.print(matrix_table(record.names, values, way, ".3g"))
    console.print("on one mountain: " + _format_groups(record.clusters), markup=False, highlight=False)
    if record.aligned != record.clusters:
        console.print("after alignment: " + _format_groups(record.aligned), markup=False, highlight=False)
    if record.functions:
        for name, fmt in (("disagreement", ".3f"), ("cka", ".3f")):
            console.print(matrix_table(record.names, record.functions[name], name, fmt))
    if record.sharpness:
        console.print(sharpness_table(record.sharpness))
    for line in [*_finding_lines(record.findings), *record.advice()]:
        console.print(printable(line, 400), markup=False, highlight=False)
    return _read_console(console)


def sharpness_table(by_model: Mapping[str, Sharpness]) -> Table:
    """A row per model; rises of the loss at the stated radii."""
    table = Table(box=None, pad_edge=False)
    for head in ("sharpness", "‖g‖", "average", "SAM", "adaptive", "worst %", "width"):
        table.add_column(head, justify="left" if head == "sharpness" else "right")
    for name, record in by_model.items():
        values = record.gradient, record.average, record.sam, record.adaptive, record.worst, record.width
        note = " (slope)" if record.findings else ""
        table.add_row(
            elide(printable(name), MAX_NAME_CHARS) + note, *(_format_number(value, ".3g") for value in values)
        )
    return table


def _finding_lines(findings: Sequence[Finding]) -> list[str]:
    return [f"{finding.code} {finding.title}: {printable(finding.message, 400)}" for finding in findings]


def _format_groups(groups: Sequence[Sequence[str]]) -> str:
    return "; ".join(", ".join(printable(name, MAX_NAME_CHARS) for name in group) for group in groups)


def _format_options(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{printable(str(k), 40)} {printable(str(v), 80)}" for k, v in about.items())


def _hole_lines(holes: Mapping[str, int], clamped: int) -> list[str]:
    lines = [f"  {plural(count, 'point')} without a value: {printable(why, 120)}" for why, count in holes.items()]
    return lines + ([f"  {clamped} variances below zero were set to zero"] if clamped else [])


def _finite_range(values: Any) -> tuple[float, float]:
    finite = [float(x) for x in values if math.isfinite(x)]
    return (min(finite), max(finite)) if finite else (math.nan, math.nan)
