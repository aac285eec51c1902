"""``layerscope distances``."""

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
@click.option("--select", default="learned", show_default=True, help="learned, weights, all, or a glob on the names.")
@click.option("--partial", is_flag=True, help="Leave out tensors that not all have alike, and say which.")
@click.option("--origin", metavar="MODEL", help="What all others started from: distances from it, angles seen from it.")
@click.option(
    "--kind", type=click.Choice((*DISTANCE_KINDS, "centred")), default="l2", show_default=True, help="Which distance."
)
@click.option("--format", "-f", "format_", type=click.Choice(["table", "json", "csv"]), default="table")
@click.option("--html", metavar="FILE", help="Write one HTML page.")
@click.option("--output", "-o", metavar="FILE", help="Draw the matrix: .png, .svg or .pdf.")
def distances(
    models: tuple[str, ...], select: str, partial: bool, origin: str | None, kind: str, **options: Any
) -> int:
    """How far models are from each other in parameter space, from their files alone."""
    from layerscope.lenses.landscape.geometry.distances import distances as measure_distances
    from layerscope.views import landscape as view

    check_landscape_outputs(options, models)
    if kind == "centred" and origin is None:
        raise UsageError("centred cosines are seen from an origin: give --origin MODEL")
    result = measure_distances(models, select=select, partial=partial, origin=origin)
    if options["format_"] == "json":
        click.echo(json.dumps(result.to_dict(), allow_nan=False))
    elif options["format_"] == "csv":
        click.echo("\n".join(view.matrix_csv_lines(result.names, result.matrix(kind))))
    else:
        click.echo(view.distances_text(result, kind, terminal_width()))
    write_files(result, options, lambda: result.plot(kind))
    return 0
