"""A history as text and as a frame."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from layerscope.errors import MissingExtra
from layerscope.records.history import History
from layerscope.text import number, plural, printable
from layerscope.views import report_rows as frames
from layerscope.views.plots.run_lines import some

if TYPE_CHECKING:
    import pandas as pd

MOST = 20  # steps of the table: the first, the last, and some in between
MOST_GIVEN = 2  # numbers of the loop that are shown
COLUMNS: tuple[tuple[str, str, Callable[[list[float]], float]], ...] = (  # head, metric, over the layers
    ("mean α", "alpha", statistics.fmean), ("mean rand", "rand_distance", statistics.fmean),
    ("λmax Sx", "lambda_max_x", max), ("λmax Sd", "lambda_max_d", max), ("λmax F", "lambda_max_fim", max),
    ("least dom.", "domination", min),
)  # fmt: skip


def plain(history: History, width: int = 100) -> str:
    """What a terminal shows."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(history, console)
    file: Any = console.file
    return str(file.getvalue()).rstrip()


def show(history: History, console: Console) -> None:
    """A line per step: what the loop gave, the extremes over the layers, the verdicts."""
    measured = [row for row in history.last.rows if not row.skipped] if history.reports else []
    about = f"{printable(history.name, 60)}: {plural(len(history.steps), 'step')}, {plural(len(measured), 'layer')}"
    console.print(about, markup=False)
    given = list(dict.fromkeys(name for scalars in history.scalars for name in scalars))
    left_out, given = given[MOST_GIVEN:], given[:MOST_GIVEN]
    lenses = [each for each in COLUMNS if any(each[1] in row.metrics for r in history.reports for row in r.rows)]
    own = "loss" not in given and any("loss" in _whole(report) for report in history.reports)
    room = max(1, (console.width - 22) // 11 - len(given) - own)  # columns of numbers
    left_out, lenses = [*left_out, *(head for head, *_ in lenses[room:])], lenses[:room]
    table = Table(box=None, pad_edge=False)
    table.add_column("step", justify="right", no_wrap=True, min_width=max([4, *(len(str(x)) for x in history.steps)]))
    for head in (*(printable(name, 12) for name in given), *(["loss"] if own else []), *(head for head, *_ in lenses)):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("verdicts")
    for i in some(len(history.steps), MOST):
        report, scalars = history.reports[i], history.scalars[i]
        cells = [number(scalars.get(name), ".4g") for name in given]
        cells += [number(_whole(report).get("loss"), ".4g")] if own else []
        for _, metric, over in lenses:
            values = [float(row.metrics[metric]) for row in report.rows if not row.skipped and metric in row.metrics]
            cells.append(number(over(values) if values else None, ".3g"))
        codes = sorted({finding.code for finding in report.findings if finding.severity != "info"})
        table.add_row(str(history.steps[i]), *cells, printable(" ".join(codes), 200) or "–")
    console.print(table)
    if left_out:
        console.print(f"not shown: {printable(', '.join(left_out), 200)}", markup=False, highlight=False)


def _whole(report: Any) -> Any:
    return report.meta.get("conditioning", {}).get("whole", {})


def frame(history: History) -> pd.DataFrame:
    """One row per step and tensor."""
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("a data frame", "pandas") from None
    rows = [
        {"step": step, **scalars, **row}
        for step, scalars, report in zip(history.steps, history.scalars, history.reports, strict=True)
        for row in frames.rows(report)
    ]
    return pd.DataFrame(rows)
