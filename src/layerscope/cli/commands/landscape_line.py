"""``layerscope landscape line``: loss on the straight lines between models."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.landscape_output import (
    build_evaluator,
    points_bar,
    print_result,
    write_files,
)
from layerscope.cli.options import engine_option, evaluation_options


@click.command()
@evaluation_options
@click.option("--points", type=int, default=25, show_default=True, help="Number of points evaluated on each line.")
@engine_option
@click.option(
    "--span",
    type=(float, float),
    default=(0.0, 1.0),
    show_default=True,
    help="First and last position on the line; 0 is the first model and 1 the other.",
)
def line(models: tuple[str, ...], points: int, engine: str | None, span: tuple[float, float], **options: Any) -> int:
    """Evaluate the loss on straight lines between models.

    PACKAGE.MODULE:FUNCTION returns a PyTorch model of the architecture. Each MODEL is a file with weights for it.

    Each line goes from the first MODEL to one of the others. Prints the height of the loss barrier, and the range of
    loss and accuracy on the line. --output draws the curves.

    \b
    Example:
      layerscope landscape line mine:build a.pt b.pt --data mine:test -o line.png
    """
    from layerscope.lenses.landscape.geometry.lines_and_planes import line as evaluate_line
    from layerscope.views import landscape as view

    evaluate, names = build_evaluator(models, 2, options)
    lines = []
    for model, name in zip(models[1:], names[1:], strict=True):
        with points_bar(f"{names[0]} → {name}", options["quiet"]) as tick:
            ends = (names[0], name)
            arguments: Any = {"points": points, "span": span, "names": ends, "progress": tick, "engine": engine}
            lines.append(evaluate_line(models[0], model, evaluate, **arguments))
    print_result([result.to_dict() for result in lines], "\n".join(map(view.line_text, lines)), options)
    write_files(lines, options, lambda: lines[0].plot(*lines[1:]))
    return 0
