"""``layerscope history``: what a monitor saw over the steps of a run."""

from __future__ import annotations

from pathlib import Path

import click

from layerscope.cli.output import check_outputs
from layerscope.errors import TargetNotFound


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN.layerscope…")
@click.option("--html", metavar="FILE", help="Write the last report and the way to it as one HTML page.")
def history(runs: tuple[str, ...], html: str | None) -> int:
    """Show saved histories of runs, step by step; several beside each other in the page."""
    import sys

    from rich.console import Console

    from layerscope.persistence import report_file
    from layerscope.views import history as view
    from layerscope.views.page import writing

    check_outputs({"html": html, "save": None, "output": None}, runs)
    for path in runs:
        if not report_file.is_history(path):
            problem = (
                "is no history of a run, which layerscope.Monitor writes" if Path(path).exists() else "is not there"
            )
            raise TargetNotFound(f"{path} {problem}")
    histories = [report_file.load_history(path) for path in runs]
    for run in histories:
        view.print_history(run, Console(file=sys.stdout))
    if html:
        writing.write_page(histories, html)
    return 0
