"""``layerscope landscape path``."""

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
@click.option("--train", required=True, metavar="PACKAGE.MODULE:NAME", help="(x, y) of training.")
@click.option("--bends", type=int, default=1, show_default=True)
@click.option("--steps", type=int, default=600, show_default=True, help="Of SGD on the bends.")
@click.option("--lr", type=float, default=0.03, show_default=True)
def path(models: tuple[str, ...], train: str, bends: int, steps: int, lr: float, **options: Any) -> int:
    """A curve of low loss between two MODELs, trained."""
    from layerscope.lenses.landscape.geometry.curves import connect

    if len(models) != 2:
        raise UsageError(f"a path joins two models, not {len(models)}")
    evaluate, names = build_evaluator(models, 2, options)
    arguments: Any = {"bends": bends, "steps": steps, "lr": lr, "names": (names[0], names[1])}
    connection = connect(models[0], models[1], evaluate, call_or_get(train), **arguments)
    lines = [connection.straight, connection.curved]
    print_result([line.to_dict() for line in lines], repr(connection), options)
    write_files(lines, options, lambda: connection.straight.plot(connection.curved))
    return 0
