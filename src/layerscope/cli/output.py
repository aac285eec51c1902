"""Where results go, and what is shown on the way."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from layerscope.errors import OutputError

if TYPE_CHECKING:
    from layerscope.api import Progress
    from layerscope.types import LayerReport, Report

LAYERS_FAILED = 4


def chosen_columns(text: str | None) -> list[str]:
    from layerscope.views import frame

    if text == "help":
        click.echo("\n".join(frame.columns()))
        raise click.exceptions.Exit(0)
    return frame.chosen([name.strip() for name in text.split(",") if name.strip()]) if text else []


def check_output(path: str | None) -> None:
    if path is not None:
        from layerscope.views.files import check_writable

        check_writable(path)


def save_report(report: Report, path: str) -> OutputError | None:
    try:
        report.save(path)
    except OutputError as error:
        return error
    return None


def write_reports(reports: list[Report], options: dict[str, Any], columns: list[str]) -> None:
    """Write the result; a result that cannot be written to its file goes to stdout rather than nowhere."""
    from layerscope.views import flat, json, table

    format_, output = options["format_"], options["output"]
    if format_ == "table":
        with destination(output) as stream:
            console = table.console_for(stream)
            for i, report in enumerate(reports):
                if i:
                    console.print()
                verbose, bulk = int(options.get("verbose", False)), bool(options.get("mp"))
                table.show(report, console, columns=columns, verbose=verbose, bulk=bulk)
            if len(reports) > 1:
                console.print()
                table.side_by_side(reports, console)
        return
    if format_ == "json":
        texts = [json.to_json(report, indent=2) for report in reports]
        text = texts[0] + "\n" if len(texts) == 1 else "[" + ",\n".join(texts) + "]\n"
    elif format_ == "jsonl":
        text = "".join(f"{line}\n" for report in reports for line in json.to_jsonl(report))
    elif format_ == "csv":
        text = flat.to_csv(reports, columns)
    else:
        text = "\n".join(flat.to_markdown(report, columns) for report in reports)
    with destination(output) as stream:
        stream.write(text)


@contextmanager
def destination(output: str | None) -> Iterator[Any]:
    """Standard output, or a buffer that becomes the file when the block ends."""
    if output is None:
        yield sys.stdout
        return
    from layerscope.views.files import write_whole

    buffer = io.StringIO()
    yield buffer
    try:
        write_whole(output, buffer.getvalue().encode("utf-8"))
    except OutputError:
        sys.stdout.write(buffer.getvalue())
        raise


def exit_code(reports: list[Report], fail_on: str | None) -> int:
    from layerscope.types import SEVERITIES as ORDER

    if any(layer.failed for report in reports for layer in report.rows):
        return LAYERS_FAILED
    if any(all(layer.skipped for layer in report.rows) for report in reports):
        return LAYERS_FAILED  # nothing was analysed: no news is no good news
    if fail_on and any(ORDER.index(f.severity) >= ORDER.index(fail_on) for report in reports for f in report.findings):
        return 1
    return 0


@contextmanager
def progress_bar(target: str, quiet: bool) -> Iterator[Progress | None]:
    """A bar by layer on a terminal, weighted by cost; none in a pipe."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from layerscope.views.text import printable

    console = Console(stderr=True, highlight=False, markup=False)
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[layer]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", layer=printable(target, 40), total=None)

        def update(layer: LayerReport | None, cost: float, total: float) -> None:
            if layer is None:
                bar.update(task, total=total)
            else:
                bar.update(task, advance=cost, layer=printable(layer.name, 40))

        yield update
