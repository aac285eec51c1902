"""``layerscope experiment``: published experiments run again, with what reproduced and what did not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from layerscope.cli.output import check_outputs
from layerscope.errors import TargetNotFound, UnknownName, UsageError
from layerscope.experiments import catalog, outcome

FASHION = "/usr/share/datasets/fashion-mnist"  # where Debian's dataset-fashion-mnist puts it
MNIST = ("mnist", "data/mnist", "MNIST/raw", "data/MNIST/raw")  # where people, and torchvision, put it


@click.command()
@click.argument("name")
@click.option(
    "--data",
    default="",
    metavar="digits|mnist|fashion|PATH",
    help="Images: 8×8 digits, Debian's Fashion-MNIST, or a folder of idx files; of enough-data a text file.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="So many runs from --seed on.")
@click.option("--framework", type=click.Choice(["torch", "keras"]), help="Of overtrained-layer.")
@click.option("--models", nargs=2, metavar="LESS MORE", help="Of enough-data: two models instead of trained ones.")
@click.option("--engine", metavar="NAME", help="Independent runs at once: threads, processes, …")
@click.option("--store", metavar="FILE.json", help="Keep what is done there: an interrupted call goes on from it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", metavar="FILE", help="Write one HTML page.")
@click.option("--output", "-o", metavar="FILE", help="Draw the published plots: .png, .svg or .pdf.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def experiment(name: str, data: str, seed: int, seeds: int, **options: Any) -> int:
    """Run a published experiment again: overtrained-layer, enough-data, rand-distance, conditioning, mountains."""
    from layerscope.views.page import writing
    from layerscope.views.plots import drawing

    module = catalog.load(name)
    if options["output"]:
        drawing.check_format(options["output"])
    check_outputs({"html": options["html"], "output": options["output"], "save": options["store"]}, [])
    how = _asked(name, module, options)
    outcomes = []
    for each in range(seed, seed + seeds):
        with _bar(f"{name}, seed {each}", options["quiet"]) as tick:
            given = {**how, "progress": tick} if "progress" in _parameters(module) else how
            outcomes.append(module.run(_data(name, data, each), seed=each, **given))
        if not options["as_json"]:
            click.echo(repr(outcomes[-1]))
    if options["as_json"]:
        click.echo(json.dumps([_plain(outcome.to_dict()) for outcome in outcomes], allow_nan=False))
    elif seeds > 1:
        for figure, says, held in outcome.spread(outcomes):
            click.echo(f"{held} of {seeds} seeds: {figure}: {says}")
    if options["html"]:
        writing.write(outcomes[0], options["html"])
    if options["output"]:
        if not outcomes[0].pictures:
            raise UsageError(f"{name} has no picture")
        drawing.save(outcomes[0].plot(), options["output"])
    return 0


def _asked(name: str, module: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options that this experiment takes.

    :raises UsageError: one that it does not.
    """
    found = {key: options[key] for key in ("framework", "models", "engine", "store") if options[key]}
    for key in found:
        if key not in _parameters(module):
            raise UsageError(f"{name} takes no --{key}")
    return found


def _parameters(module: Any) -> set[str]:
    import inspect

    return set(inspect.signature(module.run).parameters)


def _data(name: str, asked: str, seed: int) -> Any:
    from layerscope.experiments.image_data import digits, idx

    if name == "enough-data":
        from layerscope.experiments.enough_data import text_of

        return text_of(asked) if asked else None
    if asked in ("", "digits"):
        return digits(seed)
    pool = 2 if name in ("conditioning", "mountains") else 1
    places = {"fashion": (FASHION,), "mnist": MNIST}.get(asked, (asked,))
    folder = next((path for path in places if Path(path).exists()), None)
    if folder is None and asked in ("fashion", "mnist"):
        hint = "Debian's dataset-fashion-mnist puts it there" if asked == "fashion" else "--data FOLDER names another"
        raise TargetNotFound(f"no idx files of {asked} in {', '.join(places)}: {hint}")
    if folder is None:
        raise UnknownName("data set, nor folder,", asked, ("digits", "fashion", "mnist"))
    return idx(folder, seed=seed, pool=pool)


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and value != value else value


@contextmanager
def _bar(what: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
