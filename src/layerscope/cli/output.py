"""Write results to stdout and files, show progress, and choose the exit code."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from layerscope.errors import OutputError, without_secrets

if TYPE_CHECKING:
    from layerscope.progress_bars import Progress
    from layerscope.records.comparison import Comparison
    from layerscope.records.report import Report

LAYERS_FAILED = 4
PAGE_SUFFIXES = (".html", ".htm")


def parse_columns(text: str | None) -> list[str]:
    """Split the value of --columns; ``help`` prints all columns and exits."""
    from layerscope.views import report_rows

    if text == "help":
        click.echo("\n".join(report_rows.columns()))
        raise click.exceptions.Exit(0)
    return report_rows.check_columns([name.strip() for name in text.split(",") if name.strip()]) if text else []


def check_outputs(options: Mapping[str, Any], targets: Iterable[str]) -> None:
    """Check, before the analysis starts, that every output file can be written and overwrites no input or model.

    :raises OutputError: a file that cannot be written, that two options name, or that is an input.
    """
    from layerscope.persistence.atomic_files import check_writable
    from layerscope.sources import opening

    inputs = [Path(target) for target in (*targets, options.get("base")) if target]
    name_by_path: dict[Path, str] = {}
    for name in ("output", "save", "html"):
        if options.get(name) is None:
            continue
        check_writable(options[name])
        path = Path(options[name])
        if name == "html" and path.suffix.lower() not in PAGE_SUFFIXES:
            raise OutputError(f"--html {path}: the name must end in {' or '.join(PAGE_SUFFIXES)}")
        if path.exists() and not path.is_file():
            continue  # a device or a pipe
        if path.resolve() in name_by_path:
            raise OutputError(
                f"--{name} and --{name_by_path[path.resolve()]} name the same file, {path}; choose two files"
            )
        name_by_path[path.resolve()] = name
        for target in inputs:
            if path.exists() and target.exists() and path.samefile(target):
                raise OutputError(f"--{name} {path} would overwrite the input {target}; choose another file")
        if path.exists() and opening.holds_model(path):
            raise OutputError(
                f"--{name} {path} would overwrite a model; choose another file, or delete the model first"
            )


def save_report(save: Callable[[str], None], path: str) -> OutputError | None:
    """Write an additional file; return the error, so that the caller prints the result before raising it."""
    try:
        save(path)
    except OutputError as error:
        return error
    return None


def combine_reports(reports: list[Report]) -> Report | Comparison:
    """Return the content of one page: the single report, or a comparison of several."""
    if len(reports) == 1:
        return reports[0]
    from layerscope.report_comparison import compare

    return compare(reports, [{} for _ in reports])


def write_reports(reports: list[Report], options: dict[str, Any], columns: list[str]) -> None:
    """Write the result in the chosen format; if the output file cannot be written, print it to stdout instead."""
    from layerscope.persistence import report_json
    from layerscope.views import csv_table, junit, markdown, sarif, side_by_side, table

    format_, output = options["format_"], options["output"]
    if format_ == "table":
        with destination(output) as stream:
            console = table.console_for(stream)
            verbose, bulk = int(options.get("verbose", False)), bool(options.get("mp"))
            several = len(reports) > 1
            if several:
                side_by_side.print_overview(reports, console)
            if several and not (verbose or columns):
                console.print("\nTo list the layers of each model, add -v or choose --columns.")
                return
            for i, report in enumerate(reports):
                if several or i:
                    console.print()
                table.print_report(report, console, columns=columns, verbose=verbose, bulk=bulk)
        return
    if format_ == "json":
        texts = [report_json.to_json(report, indent=2) for report in reports]
        text = texts[0] + "\n" if len(texts) == 1 else "[" + ",\n".join(texts) + "]\n"
    elif format_ == "jsonl":
        text = "".join(f"{line}\n" for report in reports for line in report_json.to_jsonl(report))
    elif format_ == "csv":
        text = csv_table.to_csv(reports, columns)
    elif format_ == "sarif":
        text = sarif.to_sarif(reports)
    elif format_ == "junit":
        text = junit.to_junit(reports, options.get("fail_on") or "warn")
    else:
        max_chars = markdown.MAX_COMMENT_CHARS // len(reports)
        text = "\n".join(markdown.to_markdown(report, columns, max_chars) for report in reports)
    with destination(output) as stream:
        stream.write(text)


@contextmanager
def destination(output: str | None) -> Iterator[Any]:
    """Yield stdout, or a buffer that is written to the file when the block ends."""
    if output is None:
        yield sys.stdout
        return
    from layerscope.persistence.atomic_files import write_atomically

    buffer = io.StringIO()
    yield buffer
    try:
        write_atomically(output, buffer.getvalue().encode("utf-8"))
    except OutputError:
        sys.stdout.write(buffer.getvalue())
        raise


def exit_code(reports: list[Report], fail_on: str | None, *, may_be_empty: bool = False) -> int:
    """Choose the exit code: 4 if layers failed, 1 if findings reach --fail-on, else 0.

    :param may_be_empty: a report without a measured layer is no failure, e.g. a diff of identical models.
    """
    from layerscope.records.findings import SEVERITIES as SEVERITY_ORDER

    if any(layer.failed for report in reports for layer in report.rows):
        return LAYERS_FAILED
    if not may_be_empty and any(all(layer.skipped for layer in report.rows) for report in reports):
        return LAYERS_FAILED  # nothing was analyzed, so 0 would claim too much
    if fail_on and any(
        SEVERITY_ORDER.index(f.severity) >= SEVERITY_ORDER.index(fail_on) for report in reports for f in report.findings
    ):
        return 1
    return 0


@contextmanager
def progress_bar(target: str, quiet: bool) -> Iterator[Progress | None]:
    """Show a progress bar on a terminal, and nothing in a pipe."""
    from layerscope import progress_bars

    if quiet:
        yield None
        return
    with progress_bars.progress_bar(without_secrets(target)) as update:
        yield update


@contextmanager
def steps_bar(title: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar of (steps done, steps in total) on a terminal, and nothing in a pipe; each stage starts at zero."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False, markup=False), transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
