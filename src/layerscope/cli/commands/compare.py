"""``layerscope compare``."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.options import (
    COMPARISON_FORMATS,
    layers_option,
    selectors,
)  # fmt: skip
from layerscope.cli.output import (
    check_outputs,
    destination,
    exit_code,
    progress_bar,
    save_report,
)


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="A B [C…]")
@layers_option
@click.option("--no-distances", is_flag=True, help="Only spectra; do not read both models' weights again.")
@click.option("--min-evals", type=int, metavar="N", help="Fewest eigenvalues for a tail fit.  [default: 50]")
@click.option("--engine", metavar="NAME", help="threads, serial or processes.  [default: threads]")
@click.option("--jobs", "-j", type=int, metavar="N", help="Layers at once.  [default: one per core]")
@click.option("--quiet", "-q", is_flag=True, help="No progress, no messages.")
@click.option("--verbose", "-v", is_flag=True, help="Name every layer that only one model has.")
@click.option("--format", "-f", "format_", type=click.Choice(COMPARISON_FORMATS), default="table", show_default=True)
@click.option("--output", "-o", metavar="FILE", help="Write there instead of to stdout.")
@click.option("--html", metavar="FILE", help="Write the comparison as one HTML page.")
def compare(targets: tuple[str, ...], **options: Any) -> int:
    """Several models side by side. Layers are matched by name."""
    from layerscope import analysis
    from layerscope.views import comparison, markdown, table

    check_outputs(options, targets)
    settings = {name: options[name] for name in ("min_evals", "jobs") if options[name] is not None}
    with progress_bar(" ".join(targets), options["quiet"]) as progress:
        result = analysis.compare(
            *targets,
            layers=selectors(options["layers"]),
            distances=not options["no_distances"],
            engine=options["engine"],
            progress=progress,
            **settings,
        )
    problem = save_report(result.html, options["html"]) if options["html"] else None
    with destination(options["output"]) as stream:
        if options["format_"] == "table":
            comparison.print_comparison(result, table.console_for(stream), verbose=options["verbose"])
        else:
            write = {"json": comparison.to_json, "csv": comparison.to_csv, "md": markdown.comparison_to_markdown}
            stream.write(write[options["format_"]](result))
    if problem is not None:
        raise problem
    return exit_code(list(result.reports), None)
