"""Code that the landscape commands share: build the evaluator, show progress, write the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from layerscope.cli.output import check_outputs
from layerscope.cli.user_objects import call_or_get, import_object
from layerscope.errors import UnknownName, UsageError


def build_evaluator(models: tuple[str, ...], min_models: int, options: dict[str, Any]) -> tuple[Any, list[str]]:
    """Build the evaluator from the command-line options; return it with a short name for each model."""
    from layerscope.lenses.landscape.evaluation.torch_evaluator import TorchEvaluator
    from layerscope.sources.several_models import shorten_paths

    if len(models) < min_models:
        raise UsageError(f"expected {min_models} models or more, got {len(models)}")
    check_landscape_outputs(options, models)
    loss, calibrate = options["loss"], options["calibrate"]
    loss = import_object(loss) if ":" in loss else loss
    evaluate = TorchEvaluator(
        call_or_get(options["build"]), call_or_get(options["data"]), loss, bn=options["bn"],
        calibrate=call_or_get(calibrate) if calibrate else None, device=options["device"], repair=options["repair"],
        forward=import_object(options["forward"]) if options["forward"] else None, examples=options["examples"],
    )  # fmt: skip
    return evaluate, shorten_paths(models)


def check_metric(metric: str, evaluate: Any, model: str) -> None:
    """Check, before the long computation, that the evaluator measures the metric that is to be drawn.

    :raises UnknownName: the evaluator has no such metric.
    """
    from layerscope.sources.model_weights import weights_of

    if metric and metric not in (known := evaluate(weights_of(model)).metrics):
        raise UnknownName("metric", metric, known)


def check_landscape_outputs(options: dict[str, Any], models: tuple[str, ...]) -> None:
    """Check, before the long computation, that the output files can be written."""
    from layerscope.views.plots import drawing

    if options["output"]:
        drawing.check_format(options["output"])
    check_outputs({"html": options["html"], "output": options["output"], "save": None}, models)


def print_result(data: Any, text: str, options: dict[str, Any]) -> None:
    """Print the result as JSON or as text."""
    click.echo(json.dumps(data, allow_nan=False) if options["as_json"] else text)


def write_files(result: Any, options: dict[str, Any], draw: Callable[[], Any]) -> None:
    """Write the HTML page and the figure that were asked for."""
    from layerscope.views.page import writing
    from layerscope.views.plots import drawing

    if options["html"]:
        writing.write_page(result, options["html"])
    if options["output"]:
        drawing.save_figure(draw(), options["output"])


def terminal_width() -> int:
    """Width of the terminal in columns, at most 160."""
    from rich.console import Console

    return min(160, Console(file=sys.stdout).width)


@contextmanager
def points_bar(title: str, quiet: bool) -> Iterator[Callable[[int, int, float], None] | None]:
    """Show a progress bar with evaluated points and time left; show nothing when stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(title[:60], total=None)
        yield lambda done, total, _: progress.update(task, completed=done, total=total)
