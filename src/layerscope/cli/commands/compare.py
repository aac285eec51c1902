"""``layerscope compare``: several models side by side."""

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
@click.option(
    "--no-distances",
    is_flag=True,
    help="Compare only the spectra; skip the distances between weights, which read the models again.",
)
@click.option(
    "--min-evals",
    type=int,
    metavar="N",
    help="Fit a power law only to layers with at least N eigenvalues.  [default: 50]",
)
@click.option(
    "--engine", metavar="NAME", help="Engine that runs the layers: threads, serial or processes.  [default: threads]"
)
@click.option(
    "--jobs", "-j", type=int, metavar="N", help="Number of layers analyzed in parallel.  [default: one per core]"
)
@click.option("--quiet", "-q", is_flag=True, help="Do not show the progress bar.")
@click.option("--verbose", "-v", is_flag=True, help="List every layer that only some of the models have.")
@click.option(
    "--format",
    "-f",
    "format_",
    type=click.Choice(COMPARISON_FORMATS),
    default="table",
    show_default=True,
    help="File format in which the comparison is printed.",
)
@click.option("--output", "-o", metavar="FILE", help="Write the comparison to this file instead of stdout.")
@click.option("--html", metavar="FILE", help="Write the comparison as one HTML page.")
def compare(targets: tuple[str, ...], **options: Any) -> int:
    """Compare two or more models layer by layer.

    Layers are matched by name. Prints the summaries side by side, α of every common layer, the distance of each model
    from the first, and what the differences usually mean.

    \b
    Example:
      layerscope compare gpt.safetensors gpt2.safetensors --html comparison.html
    """
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
