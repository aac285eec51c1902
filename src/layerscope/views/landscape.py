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
MOST = 12  # models of a printed matrix
LONGEST = 24  # characters of a name


def distances(found: Distances, kind: str = "l2", width: int = WIDTH) -> str:
    """Two matrices, the distance and how related the models are, and what they say."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    count = f"{plural(len(found.tensors), 'tensor')}, {found.params:,} entries ({printable(found.select, 40)})"
    console.print(f"{plural(len(found.names), 'model')}, {count}", markup=False, highlight=False)
    shown = [kind] if kind != "l2" else ["l2", "symmetric", *(["centred"] if found.origin else []), *found.without]
    for each in shown:
        console.print(matrix(found.names, found.matrix(each), each))
    if found.origin:
        far = ", ".join(
            f"{elide(printable(name), LONGEST)} {x:.4g}" for name, x in list(found.from_origin.items())[:MOST]
        )
        console.print(f"From {elide(printable(found.origin), LONGEST)}: {far}", markup=False, highlight=False)
    for line in [*found.reading(), *_said(found.findings)]:
        console.print(line, markup=False, highlight=False)
    if found.unlike:
        names = ", ".join(printable(name, 60) for name in found.unlike[:4])
        more = ", …" if len(found.unlike) > 4 else ""
        console.print(f"Left out, not alike in all: {names}{more}", markup=False, highlight=False)
    return _text(console)


def matrix(names: Sequence[str], values: Any, head: str, fmt: str = ".4g") -> Table:
    """A square of numbers; of more than a dozen models the first ones."""
    table = Table(box=None, pad_edge=False)
    table.add_column(head)
    shown = names[:MOST]
    labels = [elide(printable(name), LONGEST) for name in shown]
    for label in labels:
        table.add_column(label, justify="right")
    for i, label in enumerate(labels):
        table.add_row(label, *(_number(float(values[i][j]), fmt) for j in range(len(shown))))
    if len(names) > MOST:
        table.add_row(f"… {len(names) - MOST} more")
    return table


def csv(names: Sequence[str], values: Any) -> list[str]:
    """A matrix as lines of CSV; empty where there is no value."""
    import csv as writer

    buffer = io.StringIO()
    rows = writer.writer(buffer, lineterminator="\n")
    rows.writerow(["model", *names])
    for name, row in zip(names, values, strict=True):
        rows.writerow([name, *(repr(float(x)) if math.isfinite(float(x)) else "" for x in row)])
    return buffer.getvalue().rstrip("\n").split("\n")


def _number(value: float, fmt: str) -> str:
    return format(value, fmt) if math.isfinite(value) else "–"


def _text(console: Console) -> str:
    file: Any = console.file
    return str(file.getvalue()).rstrip()


def line(found: Line) -> str:
    """The barrier in words, and the curve as a few numbers."""
    hill = found.barrier("chord")
    error = "" if hill.error is None else f" ± {hill.error:.2g}"
    words = [f"{found.names[0]} → {found.names[1]}, {plural(len(found.t), 'point')}, {_how(found.about)}"]
    least = "at least " if found.holes else ""
    where = f"{least}{hill.value:.4g}{error} at t = {hill.at:.2f}" if math.isfinite(hill.value) else "not known"
    words.append(f"  loss barrier {where} (chord)")
    for name, values in found.metrics.items():
        ends = ", ".join(_number(float(values[found.t == x][0]), ".4g") for x in (0.0, 1.0) if (found.t == x).any())
        low, high = (_number(float(f), ".4g") for f in _range(values))
        words.append(f"  {printable(name, 40)}: ends {ends or '–'}; {low} to {high}")
    return "\n".join([*words, *_holes(found.holes, found.clamped)])


def plane(found: Plane) -> str:
    """Size, best values and the true angle."""
    size = f"{len(found.u)} × {len(found.v)} points"
    words = [f"plane through {', '.join(found.names)}: {size}, {_how(found.about)}"]
    for name in found.metrics:
        value, u, v = found.best(name)
        words.append(f"  best {printable(name, 40)} {value:.4g} at u = {u:.2f}, v = {v:.2f}")
    if found.track is not None:
        shares, walk = (", ".join(f"{share:.1%}" for share in of) for of in (found.track.shares, found.track.walk))
        words.append(f"  it explains {shares} of the path (a random walk: {walk})")
        words.append(
            f"  loss of the checkpoints and of their places on the plane differ by up to {found.track.gap:.3g}"
        )
    else:
        words.append(f"  angle at {printable(found.names[0], 40)}: {_number(found.angle, '.1f')}°")
    return "\n".join([*words, *_holes(found.holes, found.clamped), *_said(found.findings)])


def basins(found: Basins) -> str:
    """The matrices of barriers, the groups, and what follows."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    told = f"{plural(len(found.names), 'model')}, {_how(found.about)}, tolerance {found.tolerance:.3g}"
    console.print(told, markup=False, highlight=False)
    for way, values in found.barriers.items():
        console.print(matrix(found.names, values, way, ".3g"))
    console.print("on one mountain: " + _groups(found.clusters), markup=False, highlight=False)
    if found.aligned != found.clusters:
        console.print("after alignment: " + _groups(found.aligned), markup=False, highlight=False)
    if found.functions:
        for name, fmt in (("disagreement", ".3f"), ("cka", ".3f")):
            console.print(matrix(found.names, found.functions[name], name, fmt))
    if found.sharpness:
        console.print(sharpness(found.sharpness))
    for line in [*_said(found.findings), *found.advice()]:
        console.print(printable(line, 400), markup=False, highlight=False)
    return _text(console)


def sharpness(found: Mapping[str, Sharpness]) -> Table:
    """A row per model; rises of the loss at the stated radii."""
    table = Table(box=None, pad_edge=False)
    for head in ("sharpness", "‖g‖", "average", "SAM", "adaptive", "worst %", "width"):
        table.add_column(head, justify="left" if head == "sharpness" else "right")
    for name, each in found.items():
        values = each.gradient, each.average, each.sam, each.adaptive, each.worst, each.width
        note = " (slope)" if each.findings else ""
        table.add_row(elide(printable(name), LONGEST) + note, *(_number(value, ".3g") for value in values))
    return table


def _said(findings: Sequence[Finding]) -> list[str]:
    return [f"{finding.code} {finding.title}: {printable(finding.message, 400)}" for finding in findings]


def _groups(groups: Sequence[Sequence[str]]) -> str:
    return "; ".join(", ".join(printable(name, LONGEST) for name in group) for group in groups)


def _how(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{printable(str(k), 40)} {printable(str(v), 80)}" for k, v in about.items())


def _holes(holes: Mapping[str, int], clamped: int) -> list[str]:
    said = [f"  {plural(count, 'point')} without a value: {printable(why, 120)}" for why, count in holes.items()]
    return said + ([f"  {clamped} variances below zero were set to zero"] if clamped else [])


def _range(values: Any) -> tuple[float, float]:
    kept = [float(x) for x in values if math.isfinite(x)]
    return (min(kept), max(kept)) if kept else (math.nan, math.nan)
