"""``layerscope landscape path``: a trained curve of low loss between two models."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.landscape_output import (
    build_evaluator,
    print_result,
    write_files,
)
from layerscope.cli.options import evaluation_options
from layerscope.cli.user_objects import call_or_get
from layerscope.errors import UsageError


@click.command()
@evaluation_options
@click.option(
    "--train",
    required=True,
    metavar="PACKAGE.MODULE:NAME",
    help="Training data (x, y) for the curve, or a function that returns it.",
)
@click.option("--bends", type=int, default=1, show_default=True, help="Number of control points that are trained.")
@click.option("--steps", type=int, default=600, show_default=True, help="Number of SGD steps that train the curve.")
@click.option(
    "--lr", type=float, default=0.03, show_default=True, help="Learning rate of the SGD that trains the curve."
)
def path(models: tuple[str, ...], train: str, bends: int, steps: int, lr: float, **options: Any) -> int:
    """Train a curve of low loss between two models.

    PACKAGE.MODULE:FUNCTION returns a PyTorch model of the architecture. Each MODEL is a file with weights for it.

    Prints the loss barrier on the straight line and on the trained curve between the two MODELs.

    \b
    Example:
      layerscope landscape path mine:build a.pt b.pt --data mine:test --train mine:train
    """
    from layerscope.lenses.landscape.geometry.curves import connect

    if len(models) != 2:
        raise UsageError(f"a path connects two models, got {len(models)}; give exactly two")
    evaluate, names = build_evaluator(models, 2, options)
    arguments: Any = {"bends": bends, "steps": steps, "lr": lr, "names": (names[0], names[1])}
    connection = connect(models[0], models[1], evaluate, call_or_get(train), **arguments)
    lines = [connection.straight, connection.curved]
    print_result([line.to_dict() for line in lines], repr(connection), options)
    write_files(lines, options, lambda: connection.straight.plot(connection.curved))
    return 0
