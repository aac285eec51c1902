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
    from layerscope.lenses.landscape.geometry.basins import basins as clustered
    from layerscope.views import landscape as view

    evaluate, names = build_evaluator(models, 2, options)
    given = dict(zip(names, models, strict=True))
    with points_bar("lines", options["quiet"]) as tick:
        how: Any = {"points": points, "aligning": not no_align, "tolerance": tolerance, "sharp": sharpness}
        how["progress"] = tick
        found = clustered(given, evaluate, **how)
    print_result(found.to_dict(), view.basins(found), options)
    write_files(found, options, found.plot)
    return 0
