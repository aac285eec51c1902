"""``layerscope landscape basins``: find models that share a basin of the loss."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.landscape_output import (
    build_evaluator,
    points_bar,
    print_result,
    terminal_width,
    write_files,
)
from layerscope.cli.options import evaluation_options


@click.command()
@evaluation_options
@click.option("--points", type=int, default=11, show_default=True, help="Number of points evaluated on each line.")
@click.option("--no-align", is_flag=True, help="Do not align the hidden units of the models by permutation.")
@click.option(
    "--sharpness",
    is_flag=True,
    help="Also measure the sharpness of the loss at each model: its mean and worst rise near the weights, and SAM's.",
)
@click.option(
    "--tolerance",
    type=float,
    metavar="LOSS",
    help="Treat loss barriers below this as zero.  [default: the larger of 2 standard errors and 2 % of the mean loss]",
)
def basins(
    models: tuple[str, ...], points: int, no_align: bool, sharpness: bool, tolerance: float | None, **options: Any
) -> int:
    """Group models by basin, and show which can be averaged.

    PACKAGE.MODULE:FUNCTION returns a PyTorch model of the architecture. Each MODEL is a file with weights for it.

    Two MODELs share a basin if the loss has no barrier on the line between them. Prints the barriers before and after
    aligning hidden units, the basins, and which models can be averaged.

    \b
    Example:
      layerscope landscape basins mine:build a.pt b.pt c.pt --data mine:test
    """
    from layerscope.lenses.landscape.geometry.basins import basins as cluster_models
    from layerscope.views import landscape as view

    evaluate, names = build_evaluator(models, 2, options)
    models_by_name = dict(zip(names, models, strict=True))
    with points_bar("lines", options["quiet"]) as tick:
        arguments: Any = {"points": points, "aligning": not no_align, "tolerance": tolerance, "sharp": sharpness}
        arguments["progress"] = tick
        result = cluster_models(models_by_name, evaluate, **arguments)
    print_result(result.to_dict(), view.basins_text(result, terminal_width()), options)
    write_files(result, options, result.plot)
    return 0
