"""Shows a history as text and converts it to a data frame."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from layerscope.errors import MissingExtra
from layerscope.records.history import History
from layerscope.rules.judging import judge_run
from layerscope.text import format_number, plural, printable
from layerscope.views import report_rows as frames
from layerscope.views.plots.run_lines import spread_indices

if TYPE_CHECKING:
    import pandas as pd

MAX_TABLE_STEPS = 20  # largest number of rows; the first and the last step are always shown
MAX_SCALARS = 2  # largest number of scalars from the training loop that are shown
COLUMNS: tuple[tuple[str, str, Callable[[list[float]], float]], ...] = (  # heading, metric, aggregate over layers
    ("mean α", "alpha", statistics.fmean), ("mean rand", "rand_distance", statistics.fmean),
    ("λmax Sx", "lambda_max_x", max), ("λmax Sd", "lambda_max_d", max), ("λmax F", "lambda_max_fim", max),
    ("least dom.", "domination", min),
)  # fmt: skip


def history_text(history: History, width: int = 100) -> str:
    """Return the table as a terminal shows it."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_history(history, console)
    file: Any = console.file
    return str(file.getvalue()).rstrip()


def print_history(history: History, console: Console) -> None:
    """Print a line per step with scalars of the training loop, aggregates over layers, and verdicts."""
    measured = [row for row in history.last.rows if not row.skipped] if history.reports else []
    about = f"{printable(history.name, 60)}: {plural(len(history.steps), 'step')}, {plural(len(measured), 'layer')}"
    console.print(about, markup=False)
    scalar_names = list(dict.fromkeys(name for scalars in history.scalars for name in scalars))
    left_out, scalar_names = scalar_names[MAX_SCALARS:], scalar_names[:MAX_SCALARS]
    metric_columns = [
        column for column in COLUMNS if any(column[1] in row.metrics for r in history.reports for row in r.rows)
    ]
    has_own_loss = "loss" not in scalar_names and any(
        "loss" in _whole_model_metrics(report) for report in history.reports
    )
    max_columns = max(1, (console.width - 22) // 11 - len(scalar_names) - has_own_loss)  # that fit the width
    left_out, metric_columns = (
        [*left_out, *(head for head, *_ in metric_columns[max_columns:])],
        metric_columns[:max_columns],
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("step", justify="right", no_wrap=True, min_width=max([4, *(len(str(x)) for x in history.steps)]))
    for head in (
        *(printable(name, 12) for name in scalar_names),
        *(["loss"] if has_own_loss else []),
        *(head for head, *_ in metric_columns),
    ):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("verdicts")
    for i in spread_indices(len(history.steps), MAX_TABLE_STEPS):
        report, scalars = history.reports[i], history.scalars[i]
        cells = [format_number(scalars.get(name), ".4g") for name in scalar_names]
        cells += [format_number(_whole_model_metrics(report).get("loss"), ".4g")] if has_own_loss else []
        for _, metric, reduce in metric_columns:
            values = [float(row.metrics[metric]) for row in report.rows if not row.skipped and metric in row.metrics]
            cells.append(format_number(reduce(values) if values else None, ".3g"))
        codes = sorted({finding.code for finding in report.findings if finding.severity != "info"})
        table.add_row(str(history.steps[i]), *cells, printable(" ".join(codes), 200) or "–")
    console.print(table)
    for finding in judge_run(history.reports, history.steps):
        console.print(f"{finding.code} {finding.title}: {finding.message}", markup=False, highlight=False)
    if left_out:
        console.print(f"Not shown: {printable(', '.join(left_out), 200)}", markup=False, highlight=False)


def _whole_model_metrics(report: Any) -> Any:
    return report.meta.get("conditioning", {}).get("whole", {})


def frame(history: History) -> pd.DataFrame:
    """Return a data frame with one row per step and tensor.

    :raises MissingExtra: pandas is not installed.
    """
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
