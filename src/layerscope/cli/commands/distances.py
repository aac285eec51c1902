"""``layerscope distances``: distances between models in parameter space."""

from __future__ import annotations

import json
from typing import Any

import click

from layerscope.choices import DISTANCE_KINDS
from layerscope.cli.landscape_output import (
    check_landscape_outputs,
    terminal_width,
    write_files,
)
from layerscope.errors import UsageError


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL MODEL…")
@click.option(
    "--select",
    default="learned",
    show_default=True,
    help="Tensors to compare: learned (trained parameters), weights (two axes or more), all, or a glob on their names.",
)
@click.option(
    "--partial", is_flag=True, help="Ignore tensors that some models lack or have in another shape, and list them."
)
@click.option(
    "--origin", metavar="MODEL", help="Model from which all others were trained: measure distances and angles from it."
)
@click.option(
    "--kind",
    type=click.Choice((*DISTANCE_KINDS, "centred")),
    default="l2",
    show_default=True,
    help="Distance in the matrix; centred is the cosine between the updates from --origin.",
)
@click.option(
    "--format",
    "-f",
    "format_",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="File format in which the distances are printed.",
)
@click.option("--html", metavar="FILE", help="Write the distances as one HTML page.")
@click.option("--output", "-o", metavar="FILE", help="Draw the matrix into a .png, .svg or .pdf file.")
def distances(
    models: tuple[str, ...], select: str, partial: bool, origin: str | None, kind: str, **options: Any
) -> int:
    """Measure the distances between models in parameter space.

    Needs only the model files. Prints a matrix of distances between all models, and what the distances mean.

    \b
    Examples:
      layerscope distances a.safetensors b.safetensors c.safetensors
      layerscope distances run1.pt run2.pt --origin start.pt --kind centred
    """
    from layerscope.lenses.landscape.geometry.distances import distances as measure_distances
    from layerscope.views import landscape as view

    check_landscape_outputs(options, models)
    if kind == "centred" and origin is None:
        raise UsageError("--kind centred needs a model to measure from: add --origin MODEL")
    result = measure_distances(models, select=select, partial=partial, origin=origin)
    if options["format_"] == "json":
        click.echo(json.dumps(result.to_dict(), allow_nan=False))
    elif options["format_"] == "csv":
        click.echo("\n".join(view.matrix_csv_lines(result.names, result.matrix(kind))))
    else:
        click.echo(view.distances_text(result, kind, terminal_width()))
    write_files(result, options, lambda: result.plot(kind))
    return 0
