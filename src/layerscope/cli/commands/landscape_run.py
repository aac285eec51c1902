"""``layerscope landscape run``: the path of a training run through the loss landscape."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.landscape_output import (
    build_evaluator,
    check_metric,
    points_bar,
    print_result,
    write_files,
)
from layerscope.cli.options import evaluation_options


@click.command()
@evaluation_options
@click.option("--points", type=int, default=21, show_default=True, help="Number of grid points along each axis.")
@click.option(
    "--store",
    metavar="FILE",
    help="Save each finished part to this file; the same call resumes from it after an interruption.",
)
@click.option("--metric", default="", help="Metric that the plot shows, e.g. loss.  [default: accuracy]")
def run(models: tuple[str, ...], points: int, store: str | None, metric: str, **options: Any) -> int:
    """Evaluate the loss around the path of a training run.

    PACKAGE.MODULE:FUNCTION returns a PyTorch model of the architecture. Each MODEL is a file with weights for it.

    The MODELs are checkpoints of one run in their order. The plane is spanned by the first two principal components of
    the path. Prints the best loss and accuracy on the plane, and how well the plane represents the run. --output draws
    the plane with the path.

    \b
    Example:
      layerscope landscape run mine:build step0.pt step100.pt step200.pt --data mine:test -o run.png
    """
    from layerscope.lenses.landscape.geometry.directions import plane_of_path
    from layerscope.views import landscape as view

    evaluate, names = build_evaluator(models, 3, options)
    check_metric(metric, evaluate, models[0])
    with points_bar("plane", options["quiet"]) as tick:
        result = plane_of_path(models, evaluate, points=points, names=names, progress=tick, store=store)
    print_result(result.to_dict(), view.plane_text(result), options)
    write_files(result, options, lambda: result.plot(metric))
    return 0
