"""``layerscope history``: the checks that a training monitor has recorded."""

from __future__ import annotations

from pathlib import Path

import click

from layerscope.cli.output import check_outputs
from layerscope.errors import TargetNotFound


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN.layerscope…")
@click.option("--html", metavar="FILE", help="Write the last report and the curves over all steps as one HTML page.")
def history(runs: tuple[str, ...], html: str | None) -> int:
    """Show the history that a training monitor has saved.

    Prints one row for each check of a run, with its loss, the main metrics and the verdicts. --html writes a page that
    shows several runs side by side.

    \b
    Example:
      layerscope history run.layerscope other.layerscope --html runs.html
    """
    import sys

    from rich.console import Console

    from layerscope.persistence import report_file
    from layerscope.views import history as view
    from layerscope.views.page import writing

    check_outputs({"html": html, "save": None, "output": None}, runs)
    for path in runs:
        if not report_file.is_history(path):
            problem = (
                "is not a training history, as layerscope.Monitor writes it"
                if Path(path).exists()
                else "does not exist"
            )
            raise TargetNotFound(f"{path} {problem}")
    histories = [report_file.load_history(path) for path in runs]
    for run in histories:
        view.print_history(run, Console(file=sys.stdout))
    if html:
        writing.write_page(histories, html)
    return 0
