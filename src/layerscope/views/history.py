"""A history as text and as a frame."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from layerscope.errors import MissingExtra
from layerscope.history import History
from layerscope.views import frame as frames
from layerscope.views.plots._runs import some
from layerscope.views.text import number, plural, printable

if TYPE_CHECKING:
    import pandas as pd

MOST = 20  # steps of the table: the first, the last, and some in between
FROM = ("loss", "lambda_max_x", "lambda_max_d", "lambda_max_fim", "domination")


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
    names = ["lambda_max_x", "lambda_max_d", "lambda_max_fim"]
    table = Table(box=None, pad_edge=False)
    heads = [*(printable(name, 20) for name in given), "loss" if "loss" not in given else "", "λmax Sx", "λmax Sd"]
    for head in ("step", *filter(None, heads), "λmax F", "least dominat.", "verdicts"):
        table.add_column(head, justify="left" if head == "verdicts" else "right", no_wrap=head != "verdicts")
    for i in some(len(history.steps), MOST):
        report, scalars = history.reports[i], history.scalars[i]
        rows = [row for row in report.rows if not row.skipped]
        cells = [number(scalars.get(name), ".4g") for name in given]
        if "loss" not in given:
            cells.append(number(report.meta.get("conditioning", {}).get("whole", {}).get("loss"), ".4g"))
        for name in names:
            values = [float(row.metrics[name]) for row in rows if name in row.metrics]
            cells.append(number(max(values, default=None), ".3g"))
        least = min((float(row.metrics["domination"]) for row in rows if "domination" in row.metrics), default=None)
        codes = sorted({finding.code for finding in report.findings if finding.severity != "info"})
        table.add_row(str(history.steps[i]), *cells, number(least, ".2g"), printable(" ".join(codes), 200) or "–")
    console.print(table)


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
