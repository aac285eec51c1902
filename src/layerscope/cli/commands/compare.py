"""``layerscope compare``: several models side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from layerscope.cli.options import (
    COMPARISON_FORMATS,
    SEVERITIES,
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
@click.option(
    "--sort",
    type=click.Choice(["model", "alpha", "distance"]),
    default="model",
    show_default=True,
    help="Order of the layers: as in the model, by the change of α, or by the distance from the first model.",
)
@click.option("--top", type=click.IntRange(min=0), metavar="N", help="List only the first N layers.  [default: all]")
@click.option(
    "--fail-on",
    type=click.Choice(SEVERITIES),
    help="Exit with code 1 if a layer got worse since the first model: α left its range (LS601), a layer collapsed "
    "(LS602), or its scale jumped (LS603).",
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
    from layerscope.views import comparison, junit, markdown, sarif, table

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
    pairs = zip(result.reports, result.regressions, strict=True)
    regressed = [report.replace(findings=findings) for report, findings in pairs][1:]
    problem = save_report(result.html, options["html"]) if options["html"] else None
    with destination(options["output"]) as stream:
        if options["format_"] == "table":
            order = {"sort": options["sort"], "top": options["top"], "verbose": options["verbose"]}
            comparison.print_comparison(result, table.console_for(stream), **order)
        else:
            write: dict[str, Callable[..., str]] = {
                "json": comparison.to_json,
                "csv": comparison.to_csv,
                "md": markdown.comparison_to_markdown,
                "sarif": lambda _: sarif.to_sarif(regressed),
                "junit": lambda _: junit.to_junit(regressed, options["fail_on"] or "warn"),
            }
            stream.write(write[options["format_"]](result))
    if problem is not None:
        raise problem
    return exit_code(list(result.reports), None) or exit_code(regressed, options["fail_on"])
