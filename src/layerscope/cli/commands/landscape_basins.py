"""``layerscope landscape basins``."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.landscape_output import (
    build_evaluator,
    points_bar,
    print_result,
    write_files,
)
from layerscope.cli.options import evaluation_options


@click.command()
@evaluation_options
@click.option("--points", type=int, default=11, show_default=True, help="Of each line.")
@click.option("--no-align", is_flag=True, help="Do not try other orders of the units.")
@click.option("--sharpness", is_flag=True, help="Measure that of each model too.")
@click.option("--tolerance", type=float, metavar="LOSS", help="Barrier that still is none.")
def basins(
    models: tuple[str, ...], points: int, no_align: bool, sharpness: bool, tolerance: float | None, **options: Any
) -> int:
    """Which of these MODELs are on one mountain, so that they can be averaged?"""
    from layerscope.lenses.landscape.geometry.basins import basins as cluster_models
    from layerscope.views import landscape as view

    evaluate, names = build_evaluator(models, 2, options)
    models_by_name = dict(zip(names, models, strict=True))
    with points_bar("lines", options["quiet"]) as tick:
        arguments: Any = {"points": points, "aligning": not no_align, "tolerance": tolerance, "sharp": sharpness}
        arguments["progress"] = tick
        result = cluster_models(models_by_name, evaluate, **arguments)
    print_result(result.to_dict(), view.basins_text(result), options)
    write_files(result, options, result.plot)
    return 0
