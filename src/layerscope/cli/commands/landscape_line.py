"""``layerscope landscape line``."""

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
@click.option("--points", type=int, default=25, show_default=True)
@engine_option
@click.option(
    "--span", type=(float, float), default=(0.0, 1.0), show_default=True, help="Of t; 0 and 1 are the models."
)
def line(models: tuple[str, ...], points: int, engine: str | None, span: tuple[float, float], **options: Any) -> int:
    """The lines from the first MODEL to each of the others. BUILD makes a module of the architecture."""
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
