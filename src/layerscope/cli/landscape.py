"""``layerscope distances`` and ``layerscope landscape``: parameter space from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from layerscope.cli.conditioning import called, named
from layerscope.cli.output import check_outputs
from layerscope.errors import UnknownName, UsageError

BN = ("recompute", "batch", "interpolate", "keep")
DIRECTIONS = ("filter", "layer", "global", "none", "hessian")
KINDS = ("l2", "symmetric", "relative", "cosine", "rms", "centred")


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL MODEL…")
@click.option("--select", default="learned", show_default=True, help="learned, weights, all, or a glob on the names.")
@click.option("--partial", is_flag=True, help="Leave out tensors that not all have alike, and say which.")
@click.option("--origin", metavar="MODEL", help="What all others started from: distances from it, angles seen from it.")
@click.option("--kind", type=click.Choice(KINDS), default="l2", show_default=True, help="Which distance.")
@click.option("--format", "-f", "format_", type=click.Choice(["table", "json", "csv"]), default="table")
@click.option("--html", metavar="FILE", help="Write one HTML page.")
@click.option("--output", "-o", metavar="FILE", help="Draw the matrix: .png, .svg or .pdf.")
def distances(
    models: tuple[str, ...], select: str, partial: bool, origin: str | None, kind: str, **options: Any
) -> int:
    """How far models are from each other in parameter space, from their files alone."""
    from layerscope.landscape.distances import distances as measured
    from layerscope.views import landscape as view

    _check(options, models)
    if kind == "centred" and origin is None:
        raise UsageError("centred cosines are seen from an origin: give --origin MODEL")
    found = measured(models, select=select, partial=partial, origin=origin)
    if options["format_"] == "json":
        click.echo(json.dumps(found.to_dict(), allow_nan=False))
    elif options["format_"] == "csv":
        click.echo("\n".join(view.csv(found.names, found.matrix(kind))))
    else:
        click.echo(view.distances(found, kind, _width()))
    _write(found, options, lambda: found.plot(kind))
    return 0


@click.group()
def landscape() -> None:
    """Loss and accuracy between models: lines, planes, curves, and which of them share a basin."""


def evaluated(function: Callable[..., int]) -> Callable[..., int]:
    """Arguments and options that every evaluation has."""
    for option in reversed([
        click.argument("build", metavar="PACKAGE.MODULE:FUNCTION"),
        click.argument("models", nargs=-1, required=True, metavar="MODEL…"),
        click.option("--data", required=True, metavar="PACKAGE.MODULE:NAME", help="(x, y) to evaluate, or batches."),
        click.option("--loss", default="cross_entropy", show_default=True,
                     help="cross_entropy, mse (½‖f − y‖²), or PACKAGE.MODULE:FUNCTION."),
        click.option("--bn", type=click.Choice(BN), default="recompute", show_default=True,
                     help="Statistics of batch norms at each point."),
        click.option("--calibrate", metavar="PACKAGE.MODULE:NAME", help="Training inputs that recompute them."),
        click.option("--repair", is_flag=True, help="Give units without a norm back their means and spreads (REPAIR)."),
        click.option("--forward", metavar="PACKAGE.MODULE:FUNCTION",
                     help="(model, x) → output, where it is not model(x)."),
        click.option("--examples", type=int, metavar="N", help="So many of the data, class by class."),
        click.option("--device", metavar="NAME", help="cpu, cuda, …  [default: cpu]"),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--html", metavar="FILE", help="Write one HTML page."),
        click.option("--output", "-o", metavar="FILE", help="Draw it: .png, .svg or .pdf."),
        click.option("--quiet", "-q", is_flag=True, help="No progress."),
    ]):  # fmt: skip
        function = option(function)
    return function


def engine_option(function: Callable[..., int]) -> Callable[..., int]:
    """Which engine runs the points."""
    help_ = "Pieces of it at once: threads, processes, …  [default: point after point]"
    return click.option("--engine", metavar="NAME", help=help_)(function)


@landscape.command()
@evaluated
@click.option("--points", type=int, default=25, show_default=True)
@engine_option
@click.option(
    "--span", type=(float, float), default=(0.0, 1.0), show_default=True, help="Of t; 0 and 1 are the models."
)
def line(models: tuple[str, ...], points: int, engine: str | None, span: tuple[float, float], **options: Any) -> int:
    """The lines from the first MODEL to each of the others. BUILD makes a module of the architecture."""
    from layerscope.landscape.paths import line as walked
    from layerscope.views import landscape as view

    evaluate, names = _ready(models, 2, options)
    lines = []
    for model, name in zip(models[1:], names[1:], strict=True):
        with _bar(f"{names[0]} → {name}", options["quiet"]) as tick:
            ends = (names[0], name)
            how: Any = {"points": points, "span": span, "names": ends, "progress": tick, "engine": engine}
            lines.append(walked(models[0], model, evaluate, **how))
    _tell([each.to_dict() for each in lines], "\n".join(map(view.line, lines)), options)
    _write(lines, options, lambda: lines[0].plot(*lines[1:]))
    return 0


@landscape.command()
@evaluated
@click.option("--u", type=(float, float, int), help="First, last, points.  [default: -0.5 1.5 21; around one: -1 1 21]")
@click.option("--v", type=(float, float, int), help="The same of the other axis.  [default: as --u]")
@click.option("--store", metavar="FILE", help="Keep what is done there: an interrupted call goes on from it.")
@click.option("--metric", default="", help="What is drawn.  [default: accuracy]")
@click.option(
    "--directions",
    type=click.Choice(DIRECTIONS),
    default="filter",
    show_default=True,
    help="Around one model: random ones and their norm, or the steepest of the Hessian.",
)
@click.option(
    "--coordinates",
    type=click.Choice(["affine", "orthonormal"]),
    default="affine",
    show_default=True,
    help="Of the picture.",
)
@click.option("--surface", is_flag=True, help="Draw it seen from the side.")
@engine_option
def plane(
    models: tuple[str, ...], u: Any, v: Any, store: str | None, metric: str, directions: str, coordinates: str,
    surface: bool, **options: Any,
) -> int:  # fmt: skip
    """The plane through three MODELs, or around one along two directions."""
    from layerscope.landscape.directions import plane_around
    from layerscope.landscape.paths import plane as spanned
    from layerscope.views import landscape as view

    if len(models) not in (1, 3):
        raise UsageError(f"a plane goes through three models, or around one: not {len(models)}")
    evaluate, names = _ready(models, len(models), options)
    _check_metric(metric, evaluate, models[0])
    u = u or ((-1.0, 1.0, 21) if len(models) == 1 else (-0.5, 1.5, 21))
    how: Any = {"u": u, "v": v or u, "store": store, "engine": options["engine"]}
    if len(models) == 1:
        along = _steepest(evaluate, models[0], options) if directions == "hessian" else directions
        with _bar("plane", options["quiet"]) as tick:
            found = plane_around(models[0], evaluate, directions=along, progress=tick, **how)
    else:
        with _bar("plane", options["quiet"]) as tick:
            a, b, c = models
            found = spanned(a, b, c, evaluate, names=(names[0], names[1], names[2]), progress=tick, **how)
    _tell(found.to_dict(), view.plane(found), options)
    _write(found, options, lambda: found.plot(metric, coordinates=coordinates, surface=surface))
    return 0


@landscape.command()
@evaluated
@click.option("--points", type=int, default=21, show_default=True, help="Of each side of the grid.")
@click.option("--store", metavar="FILE", help="Keep what is done there: an interrupted call goes on from it.")
@click.option("--metric", default="", help="What is drawn.  [default: accuracy]")
def run(models: tuple[str, ...], points: int, store: str | None, metric: str, **options: Any) -> int:
    """The path of a run through its checkpoints (MODELs, in order), on the plane of most of its variance."""
    from layerscope.landscape.directions import plane_of_path
    from layerscope.views import landscape as view

    evaluate, names = _ready(models, 3, options)
    _check_metric(metric, evaluate, models[0])
    with _bar("plane", options["quiet"]) as tick:
        found = plane_of_path(models, evaluate, points=points, names=names, progress=tick, store=store)
    _tell(found.to_dict(), view.plane(found), options)
    _write(found, options, lambda: found.plot(metric))
    return 0


@landscape.command()
@evaluated
@click.option("--points", type=int, default=11, show_default=True, help="Of each line.")
@click.option("--no-align", is_flag=True, help="Do not try other orders of the units.")
@click.option("--sharpness", is_flag=True, help="Measure that of each model too.")
@click.option("--tolerance", type=float, metavar="LOSS", help="Barrier that still is none.")
def basins(
    models: tuple[str, ...], points: int, no_align: bool, sharpness: bool, tolerance: float | None, **options: Any
) -> int:
    """Which of these MODELs are on one mountain, so that they can be averaged?"""
    from layerscope.landscape.basins import basins as clustered
    from layerscope.views import landscape as view

    evaluate, names = _ready(models, 2, options)
    given = dict(zip(names, models, strict=True))
    with _bar("lines", options["quiet"]) as tick:
        how: Any = {"points": points, "aligning": not no_align, "tolerance": tolerance, "sharp": sharpness}
        how["progress"] = tick
        found = clustered(given, evaluate, **how)
    _tell(found.to_dict(), view.basins(found), options)
    _write(found, options, found.plot)
    return 0


@landscape.command()
@evaluated
@click.option("--train", required=True, metavar="PACKAGE.MODULE:NAME", help="(x, y) of training.")
@click.option("--bends", type=int, default=1, show_default=True)
@click.option("--steps", type=int, default=600, show_default=True, help="Of SGD on the bends.")
@click.option("--lr", type=float, default=0.03, show_default=True)
def path(models: tuple[str, ...], train: str, bends: int, steps: int, lr: float, **options: Any) -> int:
    """A curve of low loss between two MODELs, trained."""
    from layerscope.landscape.curves import connect

    if len(models) != 2:
        raise UsageError(f"a path joins two models, not {len(models)}")
    evaluate, names = _ready(models, 2, options)
    how: Any = {"bends": bends, "steps": steps, "lr": lr, "names": (names[0], names[1])}
    found = connect(models[0], models[1], evaluate, called(train), **how)
    both = [found.straight, found.curved]
    _tell([each.to_dict() for each in both], repr(found), options)
    _write(both, options, lambda: found.straight.plot(found.curved))
    return 0


def _ready(models: tuple[str, ...], least: int, options: dict[str, Any]) -> tuple[Any, list[str]]:
    """(evaluator, short names of the models)."""
    from layerscope.landscape.evaluate import TorchEvaluator
    from layerscope.landscape.points import short

    if len(models) < least:
        raise UsageError(f"{least} models or more, not {len(models)}")
    _check(options, models)
    loss, calibrate = options["loss"], options["calibrate"]
    evaluate = TorchEvaluator(
        called(options["build"]), called(options["data"]), named(loss) if ":" in loss else loss, bn=options["bn"],
        calibrate=called(calibrate) if calibrate else None, device=options["device"], repair=options["repair"],
        forward=named(options["forward"]) if options["forward"] else None, examples=options["examples"],
    )  # fmt: skip
    return evaluate, short(models)


def _steepest(evaluate: Any, model: str, options: dict[str, Any]) -> list[Any]:
    """The two directions of most curvature at a model, one step a length of 1."""
    from copy import deepcopy

    from layerscope.landscape.weights import load, weights_of
    from layerscope.learning.curvature import curvature

    net, loss = deepcopy(evaluate.model).requires_grad_(True), options["loss"]
    load(net, weights_of(model))
    data = evaluate.x.contiguous(), evaluate.y
    found = curvature(net, data, named(loss) if ":" in loss else loss, k=2, vectors=True)
    return [evaluate.unflat(vector) for vector in found.vectors]


def _check_metric(metric: str, evaluate: Any, model: str) -> None:
    """Before the work.

    :raises UnknownName: what is to be drawn is not measured.
    """
    from layerscope.landscape.weights import weights_of

    if metric and metric not in (known := evaluate(weights_of(model)).metrics):
        raise UnknownName("metric", metric, known)


def _check(options: dict[str, Any], models: tuple[str, ...]) -> None:
    from layerscope.views import plots

    if options["output"]:
        plots.check_format(options["output"])
    check_outputs({"html": options["html"], "output": options["output"], "save": None}, models)


def _tell(plain: Any, text: str, options: dict[str, Any]) -> None:
    click.echo(json.dumps(plain, allow_nan=False) if options["as_json"] else text)


def _write(found: Any, options: dict[str, Any], draw: Callable[[], Any]) -> None:
    from layerscope.views import page, plots

    if options["html"]:
        page.write(found, options["html"])
    if options["output"]:
        plots.save(draw(), options["output"])


def _width() -> int:
    from rich.console import Console

    return min(160, Console(file=sys.stdout).width)


@contextmanager
def _bar(what: str, quiet: bool) -> Iterator[Callable[[int, int, float], None] | None]:
    """Points done and time left, on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(what[:60], total=None)
        yield lambda done, total, _: progress.update(task, completed=done, total=total)
