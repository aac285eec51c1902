"""``layerscope landscape run``."""

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
@click.option("--points", type=int, default=21, show_default=True, help="Of each side of the grid.")
@click.option("--store", metavar="FILE", help="Keep what is done there: an interrupted call goes on from it.")
@click.option("--metric", default="", help="What is drawn.  [default: accuracy]")
def run(models: tuple[str, ...], points: int, store: str | None, metric: str, **options: Any) -> int:
    """The path of a run through its checkpoints (MODELs, in order), on the plane of most of its variance."""
    from layerscope.lenses.landscape.geometry.directions import plane_of_path
    from layerscope.views import landscape as view

    evaluate, names = build_evaluator(models, 3, options)
    check_metric(metric, evaluate, models[0])
    with points_bar("plane", options["quiet"]) as tick:
        result = plane_of_path(models, evaluate, points=points, names=names, progress=tick, store=store)
    print_result(result.to_dict(), view.plane_text(result), options)
    write_files(result, options, lambda: result.plot(metric))
    return 0
