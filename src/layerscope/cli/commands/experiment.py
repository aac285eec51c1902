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

FASHION_MNIST_FOLDER = "/usr/share/datasets/fashion-mnist"  # where Debian's dataset-fashion-mnist puts it
MNIST_FOLDERS = ("mnist", "data/mnist", "MNIST/raw", "data/MNIST/raw")  # where people, and torchvision, put it


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
    from layerscope.experiments import catalog, outcome
    from layerscope.views.page import writing
    from layerscope.views.plots import drawing

    module = catalog.load(name)
    if options["output"]:
        drawing.check_format(options["output"])
    check_outputs({"html": options["html"], "output": options["output"], "save": options["store"]}, [])
    chosen_options = _select_options(name, module, options)
    outcomes = []
    for run_seed in range(seed, seed + seeds):
        with _progress_bar(f"{name}, seed {run_seed}", options["quiet"]) as tick:
            arguments = (
                {**chosen_options, "progress": tick} if "progress" in _parameter_names(module) else chosen_options
            )
            outcomes.append(module.run(_load_data(name, data, run_seed), seed=run_seed, **arguments))
        if not options["as_json"]:
            click.echo(repr(outcomes[-1]))
    if options["as_json"]:
        click.echo(json.dumps([_replace_nan(outcome.to_dict()) for outcome in outcomes], allow_nan=False))
    elif seeds > 1:
        for figure_name, claim, count in outcome.spread(outcomes):
            click.echo(f"{count} of {seeds} seeds: {figure_name}: {claim}")
    if options["html"]:
        writing.write_page(outcomes[0], options["html"])
    if options["output"]:
        if not outcomes[0].pictures:
            raise UsageError(f"{name} has no picture")
        drawing.save_figure(outcomes[0].plot(), options["output"])
    return 0


def _select_options(name: str, module: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options that this experiment takes.

    :raises UsageError: one that it does not.
    """
    chosen = {key: options[key] for key in ("framework", "models", "engine", "store") if options[key]}
    for key in chosen:
        if key not in _parameter_names(module):
            raise UsageError(f"{name} takes no --{key}")
    return chosen


def _parameter_names(module: Any) -> set[str]:
    import inspect

    return set(inspect.signature(module.run).parameters)


def _load_data(name: str, source: str, seed: int) -> Any:
    from layerscope.experiments.image_data import digits, idx

    if name == "enough-data":
        from layerscope.experiments.enough_data import text_of

        return text_of(source) if source else None
    if source in ("", "digits"):
        return digits(seed)
    pool = 2 if name in ("conditioning", "mountains") else 1
    folders = {"fashion": (FASHION_MNIST_FOLDER,), "mnist": MNIST_FOLDERS}.get(source, (source,))
    folder = next((path for path in folders if Path(path).exists()), None)
    if folder is None and source in ("fashion", "mnist"):
        hint = "Debian's dataset-fashion-mnist puts it there" if source == "fashion" else "--data FOLDER names another"
        raise TargetNotFound(f"no idx files of {source} in {', '.join(folders)}: {hint}")
    if folder is None:
        raise UnknownName("data set, nor folder,", source, ("digits", "fashion", "mnist"))
    return idx(folder, seed=seed, pool=pool)


def _replace_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _replace_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


@contextmanager
def _progress_bar(title: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
